"""The masks of a step's rows, computed into one array while the device works.

One after the other: with llguidance's LLExecutor, which takes threads to it, they took 0.9 to 10
times as long on a loaded machine of two cores that also ran the model: 20 rows of the bench's
schema, 11 ms in the place of 1.2 at worst with a vocabulary of 49,152.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentd.model_server.calls import Mask

WORD = 4  # bytes; llguidance writes whole ones
ALL = 0xFF


class MaskBits:
    """Fills one array again and again. `vocabulary` is the number of a model's tokens."""

    def __init__(self, vocabulary: int) -> None:
        self._size = -(-vocabulary // (8 * WORD)) * WORD
        self._bits = np.empty((0, self._size), np.uint8)

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
        for at, (mask, row) in enumerate(zip(masks, bits, strict=True)):
            try:  # one answer's grammar must not be the others' fault
                if mask is not None:
                    if (matcher := mask.matcher) is not None:
                        matcher.unsafe_compute_mask_ptr(row.ctypes.data, self._size)
                    mask.narrow(row)
            except Exception as error:
                faults[at] = error
            if mask is None or at in faults:
                row[:] = ALL
        return bits, faults
