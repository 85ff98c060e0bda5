"""Reads TOML files that a person writes into strict Pydantic models. A problem is one error."""

import re
import tomllib
import typing
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agentd.config.key_lines import line_of
from agentd.config.odd_files import no_file, toml_hint
from agentd.config.suggest import did_you_mean, listed
from agentd.config.wording import key_of, said
from agentd.errors import ConfigError
from agentd.whole import read_start

M = TypeVar("M", bound=BaseModel)
BYTES_MAX = 64 * 1024  # a larger file is no configuration
PROBLEMS_TOLD = 8  # of one file; more are counted
PROBLEM_CHARACTERS_MAX = 300  # of one of them: a wrong key may be as long as its file
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # what such a file begins with; UTF-32 does, too
# tomllib takes minutes for one key of 60,000 parts (it is quadratic), and people write three.
ENDLESS_KEY = re.compile(r"""(?:(?:[\w-]{1,64}|"[^"\n]{0,64}"|'[^'\n]{0,64}')[ \t]*\.[ \t]*){32}""")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: naming file, line where TOML gives one, and the next step.
    """
    return parse_toml(read_small(path), path)


def read_small(path: Path) -> bytes:
    """Read a configuration file. Never waits and never reads much, whatever a person put there.

    Raises:
        ConfigError: it is no file, or the system does not let us read it.
    """
    try:
        if not path.is_file():
            raise ConfigError(no_file(path), where=str(path), hint="put a TOML file there")
        return read_start(path, BYTES_MAX + 1)
    except OSError as error:
        raise unreadable(error, path) from error


def parse_toml(data: bytes, where: Path | str) -> dict[str, Any]:
    """Read TOML that is at hand; `where` stands in errors.

    Raises:
        ConfigError: naming `where`, line where TOML gives one, and the next step.
    """
    if len(data) > BYTES_MAX:
        raise ConfigError(
            f"larger than {BYTES_MAX} bytes", where=str(where), hint="not a configuration"
        )
    text = as_text(data, where)
    if ENDLESS_KEY.search(text):
        raise ConfigError("a key nests too deeply", where=str(where), hint="flatten it")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = toml_hint(text, str(error))
        raise ConfigError(f"is not valid TOML: {error}", where=str(where), hint=hint) from error
    except RecursionError as error:
        raise ConfigError("nests too deeply", where=str(where), hint="flatten it") from error


def as_text(data: bytes, path: Path | str) -> str:
    """Return a file's content as text: UTF-8, with a byte order mark or without.

    Raises:
        ConfigError: it is none, such as UTF-16.
    """
    if data.startswith(UTF_16):
        raise ConfigError("is UTF-16 text", where=str(path), hint="save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"is not UTF-8 text (line {line})", where=str(path), hint="save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(
            f"holds a NUL character (line {line}): it is UTF-16, or no text at all",
            where=str(path),
            hint="save it as UTF-8",
        )
    return text


def unreadable(error: OSError, path: Path) -> ConfigError:
    """Return what to tell of a file that the system does not let us read."""
    return ConfigError(
        f"cannot be read: {error.strerror}", where=str(path), hint="check its permissions"
    )


def validate(model: type[M], data: dict[str, Any], path: Path) -> M:
    """Return the model of a file's contents.

    Raises:
        ConfigError: naming file and every wrong key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise config_error(error, path, model=model) from error


def config_error(
    error: ValidationError, where: Path | str, prefix: str = "", *, model: type[BaseModel]
) -> ConfigError:
    """Turn Pydantic's report into one ConfigError that names every wrong key.

    `prefix` stands before each key, such as `params.` for an agent's own parameters of `model`.
    """
    # Without their inputs: those may be as large as the file, and deeper than Python can print.
    found = error.errors(include_url=False, include_input=False)
    problems: dict[str, list[str]] = {}
    text = _text_at(where)
    for item in found:
        key = (prefix + key_of(item)).rstrip(".")[:PROBLEM_CHARACTERS_MAX]
        unknown = item["type"] == "extra_forbidden"
        message = _unknown(model, item["loc"]) if unknown else said(item)
        problems.setdefault(key, []).append(message)
    lines = [
        _placed(text, key) + f"{key}: {' or '.join(messages)}"[: 2 * PROBLEM_CHARACTERS_MAX]
        if key
        else messages[0]
        for key, messages in list(problems.items())[:PROBLEMS_TOLD]
    ]
    if len(problems) > PROBLEMS_TOLD:
        lines.append(f"and {len(problems) - PROBLEMS_TOLD} more")
    if any(item["type"] == "extra_forbidden" for item in found):
        hint = "remove or correct it"
    else:
        about = _description(model, found[0]["loc"])
        hint = f"{next(iter(problems))}: {about}" if about else "correct it"
    return ConfigError("; ".join(lines), where=str(where), hint=hint)


def _text_at(where: Path | str) -> str:
    """Return a file's text, to find lines in; "" for none: it may be another by now, or none."""
    with suppress(ConfigError, ValueError):
        return as_text(read_small(where), where) if isinstance(where, Path) else ""
    return ""


def _placed(text: str, key: str) -> str:
    line = line_of(text, key.split("."))
    return "" if line is None else f"line {line}: "


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return what to say of a key that is none of these."""
    known = list(known)
    meant = did_you_mean(key, known) or ";"
    return f"unknown key{meant} there are {listed(known)}"


def _unknown(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Say that a key is unknown, and where it belongs or what it was probably meant to be."""
    key, known = str(loc[-1]), _keys(model, loc[:-1])
    # In TOML all that follows a [table] belongs to it, as people forget.
    if len(loc) > 1 and key in model.model_fields:
        return "unknown key; it belongs to the top of the file, above every [table]"
    for table, field in model.model_fields.items():
        if len(loc) == 1 and any(key in one.model_fields for one in _models(field.annotation)):
            return f"unknown key; it belongs into [{table}]"
    return unknown_key(key, known) if known else "unknown key"


def _description(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Return what a key is for, "" where its field does not say."""
    names = [str(part) for part in loc if isinstance(part, str)]
    found = [one.model_fields.get(names[-1]) for one in _tables(model, names[:-1])] if names else []
    return next((field.description for field in found if field and field.description), "")


def _keys(model: type[BaseModel], table: Iterable[int | str]) -> list[str]:
    """Return the keys of a table inside `model`, none where it is not one model's."""
    names = [part for part in table if isinstance(part, str)]
    return [
        field.alias or name
        for one in _tables(model, names)
        for name, field in one.model_fields.items()
    ]


def _tables(model: type[BaseModel], names: Iterable[str]) -> list[type[BaseModel]]:
    """Return the models of the table that these keys lead to; a union has several."""
    found, of_names = [model], False
    for name in names:
        if of_names:  # a table of tables: this is the name of one
            of_names = False
            continue
        fields = [field for one in found if (field := one.model_fields.get(name))]
        found = [one for field in fields for one in _models(field.annotation)]
        of_names = any(typing.get_origin(field.annotation) is dict for field in fields)
    return [] if of_names else found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in typing.get_args(annotation) for one in _models(part)]


class Strict(BaseModel):
    """Base of all configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
