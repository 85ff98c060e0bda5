"""The parts of a request's body that are read by one rule: unknown keys, texts, refusals."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from agentd.model_server.calls import Refused

KEY_SHOWN = 100  # characters of an unknown key that an error repeats


class Body(BaseModel):
    """An object that has no keys but these. A null is a key that was not given.

    Pydantic's own check would report a million unknown keys one by one.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    raise PydanticCustomError("unknown", "{key}", {"key": key[:KEY_SHOWN]})
            return {key: value for key, value in data.items() if value is not None}
        return data


class ForModel(Body):
    """The body of a request to the model, by its name."""

    model: str


def strict_json(text: bytes | str) -> Any:
    """Read JSON as the standard has it, with nothing in it that cannot be written again.

    Raises:
        ValueError: it is none; also for NaN, numbers beyond a double or of thousands of digits,
            and halves of surrogate pairs, which are no text.
        RecursionError: thousands of brackets.
    """
    data = json.loads(text, parse_constant=_no_constant)
    json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def text_of(content: Any) -> Any:
    """Return the text of a content, whole or in parts; for `BeforeValidator`."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str) or len(part) != 2:
            raise PydanticCustomError(
                "content",
                "only text is taken: a string, or parts that are "
                '{{"type": "text", "text": ...}}; images and files are not fetched',
            )
        texts.append(part["text"])
    return "".join(texts)


def refusal(error: ValidationError, data: object, unsupported: dict[str, str]) -> Refused:
    """Return the first of the errors, with its place; `unsupported` explains known parameters."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "unknown":
        place = f"{place}.{first['msg']}" if place else first["msg"]
        return Refused(f"{place}: unknown parameter", code="unknown_parameter", param=place)
    known = isinstance(data, dict) and data.get(key) is not None
    if known and key in unsupported:
        return Refused(f"{key}: {unsupported[key]}", code="unsupported_parameter", param=key)
    return Refused(f"{place}: {first['msg']}" if place else first["msg"], param=place)
