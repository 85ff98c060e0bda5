"""From logits to tokens: the masks, temperature, top-p, top-k, min-p, seed."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p
from numpy.typing import NDArray

from agentd.model_server.calls import Call

KEY_STEP = 0x9E3779B97F4A7C15  # odd, so that no two positions of an answer share a key
GREEDY_BELOW = 1e-4  # a lower temperature would overflow float32, and means the same
TOP_P_GREEDY_BELOW = 1e-3  # what is 0 in float32 would leave no token at all


class Sampler:
    """Samples one answer's tokens. With a seed and the same tokens before, the same tokens come."""

    def __init__(self, call: Call) -> None:
        self._call = call
        seed = call.seed if call.seed is not None else int.from_bytes(np.random.bytes(4), "little")
        self._seed = seed % 2**64

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        call = self._call
        return call.temperature < GREEDY_BELOW or call.top_p < TOP_P_GREEDY_BELOW

    def __call__(self, logits: mx.array, position: int) -> mx.array:
        """Return the answer's token at `position` for its logits [V], not yet computed."""
        call = self._call
        if self.greedy:
            return mx.argmax(logits)
        scores = log_probabilities(logits)[None]
        if call.top_p < 1:
            scores = apply_top_p(scores, call.top_p)
        if call.min_p > 0:
            scores = apply_min_p(scores, call.min_p, 1)
        if 0 < call.top_k < scores.shape[-1]:
            scores = apply_top_k(scores, call.top_k)
        # Of the position and not of the last key: a step that failed is made again with the same.
        key = mx.random.key((self._seed + position * KEY_STEP) % 2**64)
        return mx.random.categorical(scores * (1 / call.temperature), key=key)[0]


def choose(logits: mx.array, samplers: Sequence[Sampler], positions: Sequence[int]) -> mx.array:
    """Return the rows' tokens, not yet computed.

    `logits` are [rows, V]; a token's position is counted in its answer.
    """
    if all(sampler.greedy for sampler in samplers):
        return mx.argmax(logits, axis=-1)
    each = zip(samplers, logits, positions, strict=True)
    return mx.stack([sampler(row, position) for sampler, row, position in each])


def penalised(logits: mx.array, seen: Sequence[int], penalty: float) -> mx.array:
    """Return logits [V] in which tokens that were there already are less likely.

    As transformers does it (RepetitionPenaltyLogitsProcessor, after CTRL, arXiv 1909.05858).
    """
    places = mx.array(sorted(set(seen)))
    values = logits[places]
    return mx.put_along_axis(
        logits, places, mx.where(values > 0, values / penalty, values * penalty), axis=0
    )


def log_probabilities(logits: mx.array) -> mx.array:
    """Return the natural logarithms of the probabilities along the last axis, in float32."""
    exact = logits.astype(mx.float32)
    return exact - mx.logsumexp(exact, axis=-1, keepdims=True)


def mask_logits(logits: mx.array, bits: NDArray[np.uint8] | None) -> mx.array:
    """Set what the grammars forbid to minus infinity; `bits` are a row's each, None allows all.

    llguidance's own kernel is Metal only. Logits beyond the bits are padding of the vocabulary.
    """
    if bits is None:
        return logits
    if mx.metal.is_available():
        from llguidance.mlx import apply_token_bitmask

        masked: mx.array = apply_token_bitmask(logits, bits.view(np.int32))
        return masked
    size = logits.shape[-1]
    legal = np.unpackbits(bits, axis=1, count=size, bitorder="little")  # zeros beyond its end
    return mx.where(mx.array(legal.view(np.bool_)), logits, -mx.inf)
