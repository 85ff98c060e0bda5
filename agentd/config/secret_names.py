"""Secrets that configuration names and never holds: `secret:NAME` in the place of the text."""

import re
from collections.abc import Mapping
from typing import Any

PREFIX = "secret:"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
WRITTEN = "write secret:NAME, with letters, digits and _, a letter first"


def secret_name(text: Any) -> str | None:
    """Return the name of a secret that stands in the place of a text; None for any other value.

    Raises:
        ValueError: it begins like one, and names none.
    """
    if not isinstance(text, str) or not text.startswith(PREFIX):
        return None
    name = text.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise ValueError(f"{text[:80]!r} names no secret; {WRITTEN}")
    return name


def secret_names(value: Any) -> set[str]:
    """Return the names of all secrets in a table, a list or a text.

    Raises:
        ValueError: as `secret_name`.
    """
    if isinstance(value, Mapping):
        return {name for item in value.values() for name in secret_names(item)}
    if isinstance(value, list | tuple):
        return {name for item in value for name in secret_names(item)}
    name = secret_name(value)
    return set() if name is None else {name}
