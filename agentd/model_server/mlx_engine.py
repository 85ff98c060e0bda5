"""The real engine: one model on MLX, one call at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from agentd.model_server.cache import Key, Layers, PromptCaches
from agentd.model_server.calls import Advance, Call, FinishReason
from agentd.model_server.engine import Language
from agentd.model_server.sampling import Sampler
from agentd.model_server.weights import load_weights, memory_bytes

# One prefill step; a cancelled call holds its slot no longer than this. Shorter steps read all the
# weights for fewer tokens: on a CPU 64 tokens at a time are prefilled twice as fast as 16.
PREFILL_STEP_S = 0.4
PREFILL_TOKENS_MAX = 2048
CACHE_SHARE = 8  # prompt caches may take one part in this many of the machine's memory
BUFFER_BYTES_MAX = 256 * 1024 * 1024  # freed buffers that MLX may keep for reuse
WARM_UP_TOKENS = 8


@dataclass
class _Row:
    """The call that has the slot."""

    call: Call
    layers: Layers
    sampler: Sampler
    fed: list[int]  # what `layers` hold
    pending: list[int]  # to be fed next
    unsent: list[int] = field(default_factory=list)  # forced before the first sampled token


class MlxEngine:
    """Runs a model folder. See `engine.Engine` for the methods.

    Making one loads the weights and generates a token, so that the first call finds all warm.

    Raises:
        ConfigError: the folder holds no model that mlx_lm can run.
    """

    slots = 1

    def __init__(
        self,
        folder: Path,
        language: Language,
        *,
        fast_blas: bool,
        cache_bytes: int | None = None,
    ) -> None:
        mx.set_cache_limit(BUFFER_BYTES_MAX)
        if mx.default_device() == mx.cpu:
            # There, MLX compiles by calling the machine's C++ compiler: 1.8 s at each first use and
            # files in the temporary folder, for nothing that can be measured in a step.
            mx.disable_compile()
        self._language = language
        self._model = load_weights(folder, fast_blas=fast_blas)
        self._caches = PromptCaches(cache_bytes or memory_bytes() // CACHE_SHARE)
        self._row: _Row | None = None
        self._prefill_tokens = WARM_UP_TOKENS
        tokens = (self._language.encode("Ready to work.") * WARM_UP_TOKENS)[:WARM_UP_TOKENS]
        layers = make_prompt_cache(self._model)
        self._feed(layers, tokens)  # slow the first time: memory is touched
        layers = make_prompt_cache(self._model)
        self._timed_feed(layers, tokens)
        mx.eval(mx.argmax(self._logits(layers, tokens[:1])))
        mx.clear_cache()

    def admit(self, call: Call) -> None:
        """Give the call the slot, with the longest cached beginning of its prompt."""
        found = self._caches.take(_key(call), call.prompt)
        layers, reused = found or (make_prompt_cache(self._model), 0)
        call.cached_tokens = reused
        forced = call.mask.forced() if call.mask else []
        self._row = _Row(
            call=call,
            layers=layers,
            sampler=Sampler(call),
            fed=list(call.prompt[:reused]),
            pending=[*call.prompt[reused:], *forced],
            unsent=forced,
        )

    def step(self) -> list[Advance]:
        """Prefill a piece, or generate a token and what the grammar forces after it."""
        row = self._row
        if row is None:
            return []
        if row.call.mask is not None and row.call.mask.finished:  # a grammar with one answer only
            row.call.completion_tokens += len(row.unsent)
            return self._finished(row, row.unsent, "stop")
        if len(row.pending) > self._prefill_tokens:
            self._prefill(row)
            return [Advance(row.call)]
        pending, row.pending = row.pending, []
        logits = self._logits(row.layers, pending)
        allowed = row.call.mask.allowed() if row.call.mask else None
        token = row.sampler(logits, allowed)
        row.fed += pending
        return self._sampled(row, token)

    def remove(self, call: Call) -> None:
        """Free the slot; what was prefilled is kept for the session."""
        if self._row is not None and self._row.call is call:
            self._keep(self._row)

    def reset(self) -> None:
        """Forget the call in the slot and its cache, which may be half written."""
        self._row = None
        mx.clear_cache()

    def cache_bytes(self) -> int:
        """Return the bytes that prompt caches take."""
        return self._caches.bytes

    def _sampled(self, row: _Row, token: int) -> list[Advance]:
        call, mask = row.call, row.call.mask
        sent, row.unsent = row.unsent, []
        call.completion_tokens += len(sent)
        if token in self._language.end_tokens:
            return self._finished(row, sent, "stop")
        new = [token]
        if mask is not None:
            mask.accept(token)
            new += mask.forced()
        call.completion_tokens += len(new)
        row.pending = new
        sent = [*sent, *new]
        if mask is not None and mask.finished:
            return self._finished(row, sent, "stop")
        if call.completion_tokens >= call.max_tokens:
            closing = mask.close() if mask is not None else []
            return self._finished(row, [*sent, *closing], "length")
        return [Advance(call, tuple(sent))]

    def _finished(self, row: _Row, tokens: Sequence[int], reason: FinishReason) -> list[Advance]:
        self._keep(row)
        return [Advance(row.call, tuple(tokens), reason)]

    def _keep(self, row: _Row) -> None:
        self._row = None
        self._caches.put(_key(row.call), row.fed, row.layers)

    def _prefill(self, row: _Row) -> None:
        count = self._prefill_tokens
        piece, row.pending = row.pending[:count], row.pending[count:]
        self._timed_feed(row.layers, piece)
        row.fed += piece

    def _timed_feed(self, layers: Layers, tokens: Sequence[int]) -> None:
        """Feed, and choose how many tokens the next step takes."""
        count = len(tokens)
        started = time.perf_counter()
        self._feed(layers, tokens)
        rate = count / (time.perf_counter() - started)
        # Four times as many at most: one fast step must not lead to a very long one.
        wanted = min(round(rate * PREFILL_STEP_S), 4 * count, PREFILL_TOKENS_MAX)
        self._prefill_tokens = max(1, wanted)

    def _feed(self, layers: Layers, tokens: Sequence[int]) -> None:
        self._model(mx.array([*tokens])[None], cache=layers)
        mx.eval([layer.state for layer in layers])  # the output layer is never computed

    def _logits(self, layers: Layers, tokens: Sequence[int]) -> mx.array:
        logits: mx.array = self._model(mx.array([*tokens])[None], cache=layers)[0, -1]
        return logits


def _key(call: Call) -> Key:
    return (call.agent, call.session if call.session is not None else f"#{call.number}")
