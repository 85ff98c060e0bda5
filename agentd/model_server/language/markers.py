"""A tokenizer's markers, such as `<|im_end|>`: taken out of it, or given names of our own.

All here is about the data of a tokenizer.json.
"""

import json
import re
import secrets
from typing import Any


def without_markers(data: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer that knows no markers: only added tokens of pure whitespace stay."""
    added = [token for token in data.get("added_tokens") or [] if not token["content"].strip()]
    return {
        **data,
        "added_tokens": added,
        "post_processor": None,
        "pre_tokenizer": _within(data.get("pre_tokenizer")),
    }


def _within(step: Any) -> Any:
    """Return a pre-tokenizer that puts no space before what it sees: it is never the beginning."""
    if not isinstance(step, dict):
        return step
    if isinstance(inner := step.get("pretokenizers"), list):
        return {**step, "pretokenizers": [_within(one) for one in inner]}
    return {**step, "prepend_scheme": "never"} if step.get("prepend_scheme") == "first" else step


def is_marker(content: str, special: bool) -> bool:
    """Say whether an added token is no part of any text: `<think>` is none, though not special."""
    return special or bool(re.fullmatch(r"<\S+>|\[\S+\]", content))


def renamed(data: dict[str, Any]) -> str:
    """Return a tokenizer whose markers are special and have names that no schema can contain.

    With its own, an enum value that spells `<|im_end|>` would be forced as that token.
    """
    nonce, names, added = secrets.token_hex(8), dict[str, str](), []
    for token in data.get("added_tokens") or []:
        if is_marker(token["content"], token["special"]):
            name = names[token["content"]] = f"\ue000{nonce}.{token['id']}\ue001"
            added.append({**token, "content": name, "special": True})
        else:
            added.append(token)
    model = dict(data["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(name, name): number for name, number in vocabulary.items()}
    else:  # Unigram: pairs of a token and its score
        model["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps({**data, "added_tokens": added, "model": model, "post_processor": None})
