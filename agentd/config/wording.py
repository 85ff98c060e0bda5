"""Says in plain words what Pydantic found wrong with a value: what must be written instead.

Pydantic's own messages speak of its types. The names of its errors: https://errors.pydantic.dev
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# By the error's name; what stands in braces comes with the error.
WORDS = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "frozen_field": "cannot be changed",
    "none_required": "must be left out",
    "string_type": 'must be text, in quotes: "..."',
    "string_sub_type": 'must be text, in quotes: "..."',
    "string_unicode": "must be proper text",
    "string_pattern_mismatch": "must have the form {pattern}",
    "int_type": "must be a whole number, without quotes",
    "int_parsing": "must be a whole number, without quotes",
    "int_parsing_size": "is too large a number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number, without quotes",
    "float_parsing": "must be a number, without quotes",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false, without quotes",
    "bool_parsing": "must be true or false, without quotes",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "union_tag_invalid": "must have one of {expected_tags} for its {discriminator}",
    "union_tag_not_found": "must have a {discriminator}",
    "path_type": 'must be a path, in quotes: "/..."',
    "url_type": 'must be an address, in quotes: "https://..."',
    "url_syntax_violation": "must be a proper address: {error}",
    "date_type": "must be a date, such as 2026-01-31",
    "date_parsing": "must be a date, such as 2026-01-31",
    "datetime_type": "must be a date and time, such as 2026-01-31T09:00:00Z",
    "datetime_parsing": "must be a date and time, such as 2026-01-31T09:00:00Z",
    "time_type": "must be a time, such as 09:00:00",
    "time_parsing": "must be a time, such as 09:00:00",
    "uuid_parsing": "must be a UUID",
    "json_invalid": "must be JSON",
    "recursion_loop": "must not contain itself",
    **dict.fromkeys(
        ("list_type", "tuple_type", "set_type", "frozen_set_type"),
        'must be a list, in brackets: ["...", "..."]',
    ),
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
        "must be a table, with keys of its own",
    ),
}
# Pydantic puts the members of a union behind a key: `missed.literal['once','skip']`, `size.int`.
TAG = re.compile(r"[a-z]+(?:-[a-z]+)*\[.*\]")
PLAIN_TAGS = frozenset({"int", "str", "float", "bool"})
OPENINGS = ("Value error, ", "Assertion failed, ")
SUBJECT = re.compile(r"^(?:Input|String|Value|List|Tuple|Dictionary|Number) should ")


def said(item: "ErrorDetails") -> str:
    """Return one error in plain words, without its key."""
    context: Mapping[str, Any] = item.get("ctx") or {}
    kind, message = item["type"], item["msg"]
    if kind in ("string_too_short", "too_short", "bytes_too_short"):
        return _length(kind, context["min_length"], "at least")
    if kind in ("string_too_long", "too_long", "bytes_too_long"):
        return _length(kind, context["max_length"], "at most")
    if (words := WORDS.get(kind)) is not None:
        values = {
            key: _quoted(value) if key == "expected" else value for key, value in context.items()
        }
        return words.format(**values)
    for opening in OPENINGS:
        message = message.removeprefix(opening)
    return SUBJECT.sub("must ", message).removeprefix("Input ")


def not_blank(text: str) -> str:
    """Return a text that says something: for a validator.

    Raises:
        ValueError: it holds nothing that is seen.
    """
    if all(unicodedata.category(char)[0] in "ZC" for char in text):
        raise ValueError("must not be blank")
    return text


def key_of(item: "ErrorDetails") -> str:
    """Return the dotted key of an error, "" for the whole; a list's items count from 0."""
    parts = [str(part) for part in item["loc"]]
    if len(parts) > 1 and parts[-1] in PLAIN_TAGS:
        parts.pop()
    return ".".join(part for part in parts if not TAG.fullmatch(part))


def first(errors: Iterable["ErrorDetails"], whole: str) -> str:
    """Return the first error with its key; `whole` stands for one of everything."""
    item = next(iter(errors))
    return f"{key_of(item) or whole}: {said(item)}"


def _length(kind: str, length: int, bound: str) -> str:
    if kind.endswith("too_short") and length == 1:
        return "must not be empty"
    what = "character" if kind.startswith("string") else "entry"
    many = {"character": "characters", "entry": "entries"}[what]
    return f"must have {bound} {length} {what if length == 1 else many}"


def _quoted(expected: str) -> str:
    """Return Pydantic's list of values with TOML's quotes: 'now' or 'beginning'."""
    return str(expected).replace("'", '"')
