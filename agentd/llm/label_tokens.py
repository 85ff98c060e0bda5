"""The labels of an answer from an external server, by its tokens' alternatives (`top_logprobs`)."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

Token = Mapping[str, Any]  # {"token": ..., "logprob": ..., "top_logprobs": [...]}
TOP_LOGPROBS = 20  # the most that servers give
END = re.compile(r"\s*\}[\s`]*")  # of an answer, behind its last value


def label_logprobs(
    text: str, tokens: Sequence[Token], name: str, labels: Sequence[str]
) -> dict[str, float]:
    """Return each label's log-probability at the token in which the value of field `name` begins.

    Empty where that cannot be told: the tokens are not the answer's, or two labels begin with the
    same one. A label that is not among the alternatives gets the lowest of theirs: it has less.
    """
    found = _begin(text, name)
    spelled = [_bytes(token) for token in tokens]
    if found is None or b"".join(spelled) != text.encode():
        return {}
    at, found = 0, len(text[:found].encode())
    for token, own in zip(tokens, spelled, strict=True):
        if at + len(own) > found:
            return _of_token(token, own[: found - at], labels)
        at += len(own)
    return {}


def with_label(text: str, name: str, old: str, new: str) -> str | None:
    """Return the answer with another label; None where its field `name` is not its last."""
    at = _begin(text, name)
    try:
        value, end = json.JSONDecoder().raw_decode(text, at - 1) if at else (None, 0)
    except ValueError:
        return None
    if value != old or not END.fullmatch(text, end):
        return None
    return text[:at] + json.dumps(new)[1:] + text[end:]


def _begin(text: str, name: str) -> int | None:
    """Return where the last value of a field begins, behind its quote; None of other values."""
    found = [m.end() for m in re.finditer(rf'"{re.escape(name)}"\s*:\s*"', text)]
    return found[-1] if found else None


def _of_token(token: Token, before: bytes, labels: Sequence[str]) -> dict[str, float]:
    """Read a token that begins a label behind the text `before`."""
    listed = token.get("top_logprobs")
    others = [item for item in listed if _is_told(item)] if isinstance(listed, list) else []
    logprobs: dict[str, float] = {}
    for item in sorted([*others, *filter(_is_told, [token])], key=lambda item: -item["logprob"]):
        begun = [label for label in labels if _begins(label, _bytes(item), before)]
        if len(begun) > 1:
            return {}
        for label in begun:  # the likeliest of a label's spellings counts
            logprobs.setdefault(label, float(item["logprob"]))
    if len(logprobs) < 2:
        return {}
    lowest = min(float(item["logprob"]) for item in others)
    return {label: logprobs.get(label, lowest) for label in labels}


def _begins(label: str, spelled: bytes, before: bytes) -> bool:
    """Whether a token with `before` at its start goes on with the label, or begins it."""
    rest, whole = spelled.removeprefix(before), json.dumps(label, ensure_ascii=False)[1:].encode()
    if not spelled.startswith(before) or not rest:
        return False
    return whole[:-1].startswith(rest) or rest.startswith(whole)


def _bytes(token: Token) -> bytes:
    """Return what a token stands for: half a character is told by its bytes alone."""
    told = token.get("bytes")
    with suppress(TypeError, ValueError):
        if isinstance(told, list):
            return bytes(told)
    return str(token.get("token")).encode(errors="replace")


def _is_told(item: Any) -> bool:
    """Whether it is a token with a log-probability; some write none, or infinity, for "never"."""
    value = item.get("logprob") if isinstance(item, Mapping) else None
    return isinstance(value, int | float) and math.isfinite(value)
