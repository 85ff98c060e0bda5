"""A model's context window, as its folder's config.json says it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_WINDOW = 4096  # tokens, where config.json says nothing


def own_window(sizes: Mapping[str, Any]) -> int:
    """Return a model's own window in tokens; `sizes` is what its config.json says."""
    return int(sizes.get("max_position_embeddings") or DEFAULT_WINDOW)


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says; of a model of several kinds, what it says of the text's."""
    return {**text_config(config), **{key: value for key, value in config.items() if value}}


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says of the text's part alone, {} where it knows no parts."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else {}


def window_of(folder: Path) -> int | None:
    """Return the own window of the model in a folder, None where that cannot be told."""
    try:
        return own_window(sizes_of(json.loads((folder / "config.json").read_bytes())))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
