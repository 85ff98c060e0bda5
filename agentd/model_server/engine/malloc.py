"""How the C library's allocator shares memory out. Nothing here imports MLX: it is set before."""

import contextlib
import ctypes
import sys

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of malloc.h
LARGE_BYTES = 1_048_576


def keep_together() -> None:
    """Let all threads allocate from two arenas, and large blocks for themselves.

    glibc gives each thread its own arena, and what one frees no other can use. And it moves the
    threshold of what is large up to 32 MB, so that a model's buffers break up the heap. Under churn
    the process grew by 7 % in ten minutes.
    """
    _call("mallopt", M_ARENA_MAX, 2)
    _call("mallopt", M_MMAP_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """Give the system back what malloc keeps between pieces in use; it does so only at the end."""
    _call("malloc_trim", 0)


def _call(function: str, *numbers: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*numbers)
