"""The masks of a step's rows: computed side by side, outside of Python's lock, into one array."""

from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor
from numpy.typing import NDArray

from agentd.model_server.calls import Mask

WORD = 4  # bytes; llguidance writes whole ones
ALL = 0xFF


class MaskBits:
    """Fills one array again and again. `vocabulary` is the number of a model's tokens."""

    def __init__(self, vocabulary: int) -> None:
        self._size = -(-vocabulary // (8 * WORD)) * WORD
        self._bits = np.empty((0, self._size), np.uint8)
        self._executor = LLExecutor()

    def of(
        self, masks: Sequence[Mask | None]
    ) -> tuple[NDArray[np.uint8] | None, dict[int, Exception]]:
        """Return one bit per token and mask, least significant bit first; and what failed, by mask.

        None of `masks` allows all tokens, as one that failed does; None: all allow all of them. The
        array is good until the next call.
        """
        if not any(masks):
            return None, {}
        if len(self._bits) < len(masks):
            self._bits = np.empty((len(masks), self._size), np.uint8)
        bits, faults = self._bits[: len(masks)], {}
        matchers = [
            (mask.matcher, at)
            for at, mask in enumerate(masks)
            if mask is not None and mask.matcher is not None
        ]
        if len(matchers) == 1:
            [(matcher, at)] = matchers
            matcher.unsafe_compute_mask_ptr(bits[at].ctypes.data, self._size)
        elif matchers:
            self._executor.unsafe_compute_mask_ptr(
                matchers, bits.ctypes.data, self._size, len(masks)
            )
        for at, (mask, row) in enumerate(zip(masks, bits, strict=True)):
            try:  # one answer's grammar must not be the others' fault
                if mask is not None:
                    mask.narrow(row)
            except Exception as error:
                faults[at] = error
            if mask is None or at in faults:
                row[:] = ALL
        return bits, faults
