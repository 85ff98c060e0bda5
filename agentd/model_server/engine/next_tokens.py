"""The rows' next tokens: what grammars allow and force, what is sampled, where answers end."""

import math
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from agentd.model_server.calls import Advance, Call, FinishReason, TokenLogprob
from agentd.model_server.engine.batch import Row
from agentd.model_server.engine.sampling import (
    choose,
    log_probabilities,
    mask_logits,
    penalised,
)
from agentd.model_server.grammar.mask_bits import MaskBits
from agentd.model_server.protocols import Language

Reading = tuple[mx.array, mx.array, mx.array]  # see `_reading`


@dataclass
class Chosen:
    """The rows' next tokens, not yet computed, and by a row's place what else there is to say."""

    tokens: mx.array
    faults: dict[int, Exception] = field(default_factory=dict)  # its grammar failed
    labels: dict[int, mx.array] = field(default_factory=dict)  # their log-probabilities, in order
    readings: dict[int, Reading] = field(default_factory=dict)


class NextTokens:
    """Chooses the rows' next tokens and gives them to their answers. `counts` are of /metrics."""

    def __init__(self, language: Language, counts: MutableMapping[str, float]) -> None:
        self._language, self._counts = language, counts
        self._bits = MaskBits(language.vocabulary)

    def choose(self, rows: Sequence[Row], logits: mx.array) -> Chosen:
        """Return each row's next token, and the rows whose grammars failed."""
        bits, faults = self._masks(rows)
        for at, row in enumerate(rows):
            if row.call.repeats_less:
                known = penalised(logits[at], row.tokens, row.call.repetition_penalty)
                logits = mx.concatenate([logits[:at], known[None], logits[at + 1 :]])
        masked, labels = mask_logits(logits, bits), {}
        for at, row in enumerate(rows):
            mask = row.call.mask if at not in faults else None
            if mask is not None and (branch := mask.branch):
                places = mx.array(list(branch.tokens.values()))
                offsets = mx.array([branch.offsets[label] for label in branch.tokens])
                words = mx.array(list((branch.words or branch.tokens).values()))
                labels[at] = log_probabilities(logits[at, words])
                legal = masked[at, places] > -mx.inf
                masked = masked.astype(mx.float32)
                masked[at, places] = mx.where(legal, labels[at] - offsets, -mx.inf)
        positions = [row.call.completion_tokens for row in rows]
        tokens = choose(masked, [row.sampler for row in rows], positions)
        readings = {
            at: _reading(masked[at], tokens[at], row.call.top_logprobs)
            for at, row in enumerate(rows)
            if row.call.top_logprobs is not None
        }
        return Chosen(tokens, faults, labels, readings)

    def accept(self, rows: Sequence[Row], chosen: Chosen) -> list[Advance]:
        """Give each row its token, and what its grammar forces after it."""
        mx.eval(chosen.tokens, chosen.labels, chosen.readings)
        numbers: Any = chosen.tokens.tolist()
        advances = []
        for at, (row, token) in enumerate(zip(rows, numbers, strict=True)):
            try:
                if at in chosen.faults:
                    raise chosen.faults[at]
                _note_labels(row.call, chosen.labels.get(at))
                advances.append(self._sampled(row, token, chosen.readings.get(at)))
            except Exception as error:
                row.tokens += [token] * (row.fed - len(row.tokens))  # if its caches hold it already
                advances.append(Advance(row.call, error=error))
        return advances

    def _masks(self, rows: Sequence[Row]) -> tuple[NDArray[np.uint8] | None, dict[int, Exception]]:
        started = time.perf_counter()
        masks = [row.call.mask for row in rows]
        bits, faults = self._bits.of(masks)
        self._count(sum(mask is not None for mask in masks), started)
        return bits, faults

    def _sampled(self, row: Row, token: int, reading: Reading | None) -> Advance:
        call, mask = row.call, row.call.mask
        sent, row.unsent = row.unsent, []
        call.completion_tokens += len(sent)
        told = forced_logprobs(call, sent)
        if token in self._language.end_tokens:
            row.tokens.append(token)  # its caches may hold it already
            return Advance(call, tuple(sent), "stop", logprobs=told)
        new = [token]
        if mask is not None:
            started = time.perf_counter()
            mask.accept(token)
            new += mask.forced()
            self._count(0, started)
        row.unforced = row.unforced + 1 if len(new) == 1 else 0
        call.completion_tokens += len(new)
        row.tokens += new
        reason: FinishReason | None = None
        if mask is not None and mask.finished:
            reason = "stop"
        elif call.completion_tokens >= call.max_tokens:
            new += mask.close() if mask is not None else []
            reason = "length"
        if reading is not None:
            told = (*told, _told(token, reading), *forced_logprobs(call, new[1:]))
        return Advance(call, (*sent, *new), reason, logprobs=told)

    def _count(self, count: int, started: float) -> None:
        self._counts["mask_total"] += count
        self._counts["mask_seconds_total"] += time.perf_counter() - started


def forced_logprobs(call: Call, tokens: Sequence[int]) -> tuple[TokenLogprob, ...]:
    """Return what is told of tokens that nothing else could come instead of, if it is wanted."""
    if call.top_logprobs is None:
        return ()
    return tuple(TokenLogprob(t, 0.0, ((t, 0.0),)[: call.top_logprobs]) for t in tokens)


def _reading(logits: mx.array, token: mx.array, count: int) -> Reading:
    """Return a token's log-probability, the `count` likeliest tokens in any order, and theirs."""
    values = log_probabilities(logits)
    top = mx.argpartition(-values, min(count, values.size - 1))[:count]
    return values[token], top, values[top]


def _told(token: int, reading: Reading) -> TokenLogprob:
    numbers: Any = [part.tolist() for part in reading]
    own, tokens, values = numbers
    legal = [pair for pair in zip(tokens, values, strict=True) if pair[1] > -math.inf]
    return TokenLogprob(token, own, tuple(sorted(legal, key=lambda pair: -pair[1])))


def _note_labels(call: Call, values: mx.array | None) -> None:
    if values is not None and call.mask is not None and call.mask.branch is not None:
        branch = call.mask.branch
        numbers: Any = values.tolist()
        call.labels[branch.field] = dict(zip(branch.tokens, numbers, strict=True))
