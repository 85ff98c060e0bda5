"""The labels of an answer from an external server, by its tokens' alternatives (`top_logprobs`)."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Token = Mapping[str, Any]  # {"token": ..., "logprob": ..., "top_logprobs": [...]}
TOP_LOGPROBS = 20  # the most that servers give


def label_logprobs(
    text: str, tokens: Sequence[Token], name: str, labels: Sequence[str]
) -> dict[str, float]:
    """Return each label's log-probability at the token in which the value of field `name` begins.

    Empty where that cannot be told: the tokens are not the answer's, or two labels begin with the
    same one. A label that is not among the alternatives gets the lowest of theirs: it has less.
    """
    found = _begin(text, name)
    spelled = [str(token.get("token")) for token in tokens]
    if found is None or "".join(spelled) != text:
        return {}
    at = 0
    for token, own in zip(tokens, spelled, strict=True):
        if at + len(own) > found:
            return _of_token(token, own[: found - at], labels)
        at += len(own)
    return {}


def with_label(text: str, name: str, old: str, new: str) -> str:
    """Return the answer with another label as the value of its last field `name`."""
    at = _begin(text, name)
    return text if at is None else text[:at] + json.dumps(new)[1:-1] + text[at + len(old) :]


def _begin(text: str, name: str) -> int | None:
    """Return where the last value of a field begins, behind its quote; None of other values."""
    found = [m.end() for m in re.finditer(rf'"{re.escape(name)}"\s*:\s*"', text)]
    return found[-1] if found else None


def _of_token(token: Token, before: str, labels: Sequence[str]) -> dict[str, float]:
    """Read a token that begins a label behind the text `before`."""
    logprobs: dict[str, float] = {}
    listed = [item for item in token.get("top_logprobs") or () if _is_alternative(item)]
    for item in sorted([*listed, token], key=lambda item: -float(item.get("logprob", -1e9))):
        begun = [label for label in labels if _begins(label, str(item.get("token")), before)]
        if len(begun) > 1:
            return {}
        for label in begun:  # the likeliest of a label's spellings counts
            logprobs.setdefault(label, float(item["logprob"]))
    if len(logprobs) < 2:
        return {}
    lowest = min(float(item["logprob"]) for item in listed)
    return {label: logprobs.get(label, lowest) for label in labels}


def _begins(label: str, spelled: str, before: str) -> bool:
    """Whether a token with `before` at its start goes on with the label, or begins it."""
    rest = spelled.removeprefix(before)
    if not spelled.startswith(before) or not rest:
        return False
    return label.startswith(rest) or rest.startswith(f'{label}"')


def _is_alternative(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("logprob"), int | float)
