"""Tiny tokenizers of every kind, all with the same markers, for tests."""

import json
from pathlib import Path
from typing import Any

from agentd.testing.tiny_model import SPECIAL, make_tiny

UNKNOWN = "<unk>"
THOUGHT = "<think>"  # a marker, though not special
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHARACTERS = ["\n", *(chr(code) for code in range(33, 127))]
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
PIECES = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def _vocabulary(*more: str) -> dict[str, int]:
    words = [*SPECIAL, UNKNOWN, THOUGHT, "▁", *CHARACTERS, *more]
    return {word: number for number, word in enumerate(dict.fromkeys(words))}


def _bpe(vocabulary: dict[str, int], **more: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": None, **more}


def _kinds() -> dict[str, dict[str, Any]]:
    whole = _vocabulary(*BYTES)
    scored = [[piece, -1.0 if piece in SPECIAL else -9.0] for piece in whole]
    # Merges that lead to a marker, as where one was learned as a piece of text.
    half = _vocabulary("<|im_", "end|>", *BYTES)
    merged = [["<|im_", "end|>"]]
    word = {"type": "WordLevel", "vocab": _vocabulary(), "unk_token": UNKNOWN}
    parts = _vocabulary(*(f"##{character}" for character in CHARACTERS))
    word_piece = {
        "type": "WordPiece",
        "vocab": parts,
        "unk_token": UNKNOWN,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    sentence_piece: dict[str, Any] = {"pre_tokenizer": SPACES, "decoder": PIECES}
    unknown: dict[str, Any] = {"unk_token": UNKNOWN, "fuse_unk": True, "byte_fallback": True}
    return {
        "Unigram": {
            "model": {"type": "Unigram", "unk_id": 3, "vocab": scored, "byte_fallback": True},
            **sentence_piece,
        },
        "Unigram, no bytes": {
            "model": {"type": "Unigram", "unk_id": 3, "vocab": scored, "byte_fallback": False},
            "pre_tokenizer": SPACES,
            "decoder": SPACES,
        },
        "BPE of pieces": {"model": _bpe(half, merges=merged, **unknown), **sentence_piece},
        "BPE that ignores merges": {
            "model": _bpe(whole, ignore_merges=True, **unknown),
            **sentence_piece,
        },
        "BPE whose unknown ends": {
            "model": _bpe(_vocabulary(), unk_token=SPECIAL[2]),
            "pre_tokenizer": SPACES,
            "decoder": SPACES,
        },
        "WordLevel": {"model": word, "pre_tokenizer": {"type": "WhitespaceSplit"}},
        "WordPiece": {
            "model": word_piece,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        },
    }


KINDS = {"BPE of bytes": {}, "BPE of bytes that ignores merges": {}, **_kinds()}


def make(kind: str, folder: Path) -> Path:
    """Write the tiny model with a tokenizer of this kind; return its folder."""
    make_tiny(folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    if "bytes" in kind and not KINDS[kind]:
        tokenizer["model"]["ignore_merges"] = "ignores" in kind
        byte_level = tokenizer["pre_tokenizer"]["pretokenizers"][1]
        byte_level["use_regex"] = False  # so that a marker is looked up whole
        _add(tokenizer, THOUGHT, len(tokenizer["model"]["vocab"]))
        tokenizer["model"]["vocab"][THOUGHT] = len(tokenizer["model"]["vocab"])
    else:
        tokenizer.update({"decoder": None, **KINDS[kind]})
        _add(tokenizer, UNKNOWN, len(SPECIAL), special=True)
        _add(tokenizer, THOUGHT, len(SPECIAL) + 1)
    file.write_text(json.dumps(tokenizer))
    config = json.loads((folder / "config.json").read_text())
    vocabulary = len(tokenizer["model"]["vocab"])
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    return folder


def _add(tokenizer: dict[str, Any], content: str, number: int, *, special: bool = False) -> None:
    like = tokenizer["added_tokens"][0]
    added = {**like, "id": number, "content": content, "special": special}
    tokenizer["added_tokens"].append(added)
