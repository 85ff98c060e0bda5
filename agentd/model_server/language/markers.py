"""A tokenizer's markers, such as `<|im_end|>`: taken out of it, or given names of our own.

All here is about the data of a tokenizer.json.
"""

import json
import re
import secrets
from typing import Any

# How the bytes of a vocabulary's pieces are read where a decoder says it in no way that llguidance
# knows: as SentencePiece writes them.
PIECES_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def without_markers(data: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer that knows no markers: only added tokens of pure whitespace stay.

    A Unigram or WordLevel model, and a BPE that ignores its merges, would find them as pieces of
    their vocabulary as well: there they have names that no text can contain.
    """
    added = [token for token in data.get("added_tokens") or [] if not token["content"].strip()]
    return {
        **data,
        "added_tokens": added,
        "model": _with_names(data["model"], _secret_names(data)),
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
    names = _secret_names(data)
    added = [
        {**token, "content": names[token["content"]], "special": True}
        if token["content"] in names
        else token
        for token in data.get("added_tokens") or []
    ]
    changed = {
        "added_tokens": added,
        "model": _with_names(data["model"], names),
        "post_processor": None,
    }
    if not re.search('"type": "(ByteLevel|ByteFallback)"', json.dumps(data.get("decoder"))):
        changed["decoder"] = PIECES_DECODER
    return json.dumps({**data, **changed})


def _secret_names(data: dict[str, Any]) -> dict[str, str]:
    """Return a name for each marker that nothing from outside can spell."""
    nonce = secrets.token_hex(8)
    return {
        token["content"]: f"\ue000{nonce}.{token['id']}\ue001"
        for token in data.get("added_tokens") or []
        if is_marker(token["content"], token["special"])
    }


def _with_names(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return a tokenizer's model with other names for some pieces, of the same numbers."""
    changed = dict(model)
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        changed["vocab"] = {names.get(name, name): number for name, number in vocabulary.items()}
    else:  # Unigram: pairs of a token and its score
        changed["vocab"] = [[names.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") in names:
        changed["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        changed["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    return changed


def _makes(merge: str | list[str], names: dict[str, str]) -> bool:
    """Say whether a merge makes a marker, or goes on from one."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names
