"""How much memory the model server may use, and what rows take of it.

MLX's own limit is a guideline: it delays, it does not refuse. What bounds memory is admission, by
`RowBytes`, and the prompt caches' ceiling. Memory is never wired: see weights.py.
"""

import os
from dataclasses import dataclass

import mlx.core as mx

from agentd.model_server.engine.prompt_cache import Layers
from agentd.model_server.engine.rows_cache import places_for

MACHINE_SHARE = 0.75  # of the machine's memory; Metal recommends about as much
CACHES_SHARE = 1 / 8  # of the machine's memory, for prompt caches, where no ceiling is given
WORKING_BYTES = 512 * 1024 * 1024  # what a forward pass needs besides weights and caches
BATCH_BYTES_MIN = 256 * 1024 * 1024
# Freed buffers that MLX may keep for reuse. On a CPU malloc keeps some, too: with none at all 256
# tokens took as long to prefill, and under churn the process was 200 MB smaller.
BUFFER_BYTES_MAX, BUFFER_BYTES_CPU = 256 * 1024 * 1024, 32 * 1024 * 1024


@dataclass(frozen=True)
class Budget:
    """Bytes that each part may take."""

    total: int
    caches: int  # prompt caches at rest
    batch: int  # rows, decoding or in prefill


def physical_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def set_limits() -> int:
    """Tell MLX its limits; return the bytes that this process may use in all."""
    total = int(physical_bytes() * MACHINE_SHARE)
    recommended = mx.device_info().get("max_recommended_working_set_size", 0)
    if isinstance(recommended, int) and recommended > 0:
        total = min(total, recommended)
    mx.set_memory_limit(total)
    on_cpu = mx.default_device() == mx.cpu
    mx.set_cache_limit(min(BUFFER_BYTES_CPU if on_cpu else BUFFER_BYTES_MAX, total // 8))
    return total


def share_out(total: int, cache_bytes: int | None) -> Budget:
    """Share what loaded weights leave of `total`; `cache_bytes` is the caches' ceiling."""
    free = max(0, total - mx.get_active_memory() - WORKING_BYTES)
    wanted = int(physical_bytes() * CACHES_SHARE) if cache_bytes is None else cache_bytes
    caches = wanted if cache_bytes is not None else min(wanted, free // 2)
    return Budget(total, caches, max(BATCH_BYTES_MIN, free - caches))


class RowBytes:
    """What the caches of rows take, read off a row's `layers` that hold some tokens.

    Key-value layers grow with the tokens, sliding windows up to their size, others not at all.
    """

    def __init__(self, layers: Layers) -> None:
        self._growing: list[tuple[float, int | None]] = []  # bytes a token, and up to how many
        self._fixed = 0
        self._step = 1
        parts = [part for layer in layers for part in getattr(layer, "caches", (layer,))]
        for layer in parts:
            keys = getattr(layer, "keys", None)
            if keys is None:
                self._fixed += layer.nbytes
                continue
            self._growing.append((layer.nbytes / keys.shape[2], getattr(layer, "max_size", None)))
            self._step = max(self._step, layer.step)

    def __call__(self, tokens: int, rows: int = 1) -> int:
        """Return the bytes for rows of so many tokens; several have places to spare."""
        whole = -(-tokens // self._step) * self._step  # buffers grow in steps
        growing = 0.0
        for size, most in self._growing:
            row_bytes = size * min(whole, most or whole)
            spared = rows > 1 and most is None
            growing += row_bytes * (places_for(rows, row_bytes / 2) if spared else rows)
        return rows * self._fixed + int(growing)
