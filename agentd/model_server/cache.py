"""Prompt caches: what was prefilled once is not prefilled again.

Each session keeps the cache of its last call. The next call of the session reuses the longest
common prefix in place; a new session copies the longest one that any other has, which is as a
rule its agent's fixed part. Only tokens are compared, so no content can leak into another answer.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache
from numpy.typing import NDArray

Layers = list[Any]  # one mlx_lm cache object per layer
Key = tuple[str, str]  # agent, session

WORTH_COPYING = 16  # tokens; a shorter common prefix with another session saves nothing


@dataclass
class Entry:
    """What one session's last call left."""

    tokens: NDArray[np.int64]
    layers: Layers
    bytes: int


class PromptCaches:
    """Caches by session, bounded in bytes; the least recently used goes first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, key: Key, prompt: Sequence[int]) -> tuple[Layers, int] | None:
        """Return layers that hold the longest known beginning of `prompt`, and its length.

        One token at least is left over: the model needs one to go on from. None: nothing fits.
        """
        wanted = np.asarray(prompt, dtype=np.int64)
        own = self._entries.get(key)
        best_key, best = key, _usable(own, wanted) if own else 0
        for other, entry in self._entries.items():
            if (size := _usable(entry, wanted)) > best and size >= WORTH_COPYING:
                best_key, best = other, size
        if not best:
            self.drop(key)
            return None
        entry = self._entries[best_key]
        if best_key == key:
            self.drop(key)
            layers = entry.layers
            trim_prompt_cache(layers, len(entry.tokens) - best)
            return layers, best
        self._entries.move_to_end(best_key)
        self.drop(key)
        return _copied(entry, best), best

    def put(self, key: Key, tokens: Sequence[int], layers: Layers) -> None:
        """Keep what a call left: `layers` hold exactly `tokens`."""
        self.drop(key)
        size = sum(layer.nbytes for layer in layers)
        if not len(tokens) or size > self.limit_bytes:
            return
        self._entries[key] = Entry(np.asarray(tokens, dtype=np.int64), layers, size)
        self.bytes += size
        while self.bytes > self.limit_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: Key) -> None:
        """Forget one session's cache."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.bytes

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.bytes = 0


def _usable(entry: Entry, wanted: NDArray[np.int64]) -> int:
    """Return how many tokens of `wanted` the entry can stand for."""
    size = min(len(entry.tokens), len(wanted) - 1)
    different = np.flatnonzero(entry.tokens[:size] != wanted[:size])
    common = int(different[0]) if len(different) else size
    if common == len(entry.tokens) or can_trim_prompt_cache(entry.layers):
        return common
    return 0  # a sliding window or a recurrent state cannot be cut back


def _copied(entry: Entry, size: int) -> Layers:
    """Return a copy cut to `size` tokens. Arrays are values: nothing is copied until written."""
    layers = copy.deepcopy(entry.layers)
    trim_prompt_cache(layers, len(entry.tokens) - size)
    for layer in layers:
        # A plain key-value cache keeps its buffers when trimmed; the copy needs the kept part only.
        if type(layer).__name__ == "KVCache" and layer.keys is not None:
            layer.keys = layer.keys[..., : layer.offset, :]
            layer.values = layer.values[..., : layer.offset, :]
    return layers
