"""From logits to one token: the mask, temperature, top-p, top-k, min-p, seed."""

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from agentd.model_server.calls import Call

GREEDY_BELOW = 1e-4  # a lower temperature would overflow float32, and means the same


class Sampler:
    """Samples one answer's tokens. With a seed and the same tokens before, the same tokens come."""

    def __init__(self, call: Call) -> None:
        self._call = call
        seed = call.seed if call.seed is not None else int.from_bytes(np.random.bytes(4), "little")
        self._key = mx.random.key(seed % 2**64)

    def __call__(self, logits: mx.array, allowed: bytes | None) -> int:
        """Return the token for `logits` of one position."""
        call = self._call
        if allowed is not None:
            logits = mask_logits(logits, allowed)
        if call.temperature < GREEDY_BELOW:
            return _number(mx.argmax(logits))
        scores = logits.astype(mx.float32)[None]
        scores = scores - mx.logsumexp(scores, keepdims=True)
        if 0 < call.top_p < 1:
            scores = apply_top_p(scores, call.top_p)
        if call.min_p > 0:
            scores = apply_min_p(scores, call.min_p, 1)
        if 0 < call.top_k < scores.shape[-1]:
            scores = apply_top_k(scores, call.top_k)
        self._key, key = mx.random.split(self._key)
        return _number(mx.random.categorical(scores * (1 / call.temperature), key=key)[0])


def _number(token: mx.array) -> int:
    value = token.item()
    assert isinstance(value, int)
    return value


def mask_logits(logits: mx.array, allowed: bytes) -> mx.array:
    """Set what the grammar forbids to minus infinity.

    llguidance's own kernel is Metal only. Logits beyond the mask are padding of the vocabulary.
    """
    size = logits.shape[-1]
    if mx.metal.is_available():
        from llguidance.mlx import apply_token_bitmask

        words = np.frombuffer(allowed, dtype=np.int32)
        masked: mx.array = apply_token_bitmask(logits[None], words)[0]
        return masked
    bits = np.unpackbits(np.frombuffer(allowed, dtype=np.uint8), bitorder="little")[:size]
    if len(bits) < size:
        bits = np.pad(bits, (0, size - len(bits)))
    return mx.where(mx.array(bits.view(np.bool_)), logits, -mx.inf)
