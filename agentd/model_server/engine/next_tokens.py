"""The rows' next tokens: what grammars allow and force, what is sampled, where answers end."""

import time
from collections.abc import MutableMapping, Sequence
from typing import Any

import mlx.core as mx

from agentd.model_server.calls import Advance, FinishReason, Language
from agentd.model_server.engine.batch import Row
from agentd.model_server.engine.sampling import choose

Faults = dict[int, Exception]  # by a row's place: its grammar failed


class NextTokens:
    """Chooses the rows' next tokens and gives them to their answers. `counts` are of /metrics."""

    def __init__(self, language: Language, counts: MutableMapping[str, float]) -> None:
        self._language, self._counts = language, counts

    def choose(self, rows: Sequence[Row], logits: mx.array) -> tuple[mx.array, Faults]:
        """Return each row's next token, not yet computed, and the rows whose grammars failed."""
        started = time.perf_counter()
        masks: list[bytes | None] = []
        faults = Faults()
        for at, row in enumerate(rows):
            try:  # one answer's grammar must not be the others' fault
                masks.append(row.call.mask.allowed() if row.call.mask else None)
            except Exception as error:
                faults[at] = error
                masks.append(None)
        self._count(sum(mask is not None for mask in masks), started)
        positions = [row.call.completion_tokens for row in rows]
        return choose(logits, [row.sampler for row in rows], positions, masks), faults

    def accept(self, rows: Sequence[Row], tokens: mx.array, faults: Faults) -> list[Advance]:
        """Give each row its token, and what its grammar forces after it."""
        numbers: Any = tokens.tolist()
        advances = []
        for at, (row, token) in enumerate(zip(rows, numbers, strict=True)):
            try:
                if at in faults:
                    raise faults[at]
                advances.append(self._sampled(row, token))
            except Exception as error:
                advances.append(Advance(row.call, error=error))
        return advances

    def _sampled(self, row: Row, token: int) -> Advance:
        call, mask = row.call, row.call.mask
        sent, row.unsent = row.unsent, []
        call.completion_tokens += len(sent)
        if token in self._language.end_tokens:
            row.tokens.append(token)  # its caches may hold it already
            return Advance(call, tuple(sent), "stop")
        new = [token]
        if mask is not None:
            started = time.perf_counter()
            mask.accept(token)
            new += mask.forced()
            self._count(0, started)
        call.completion_tokens += len(new)
        row.tokens += new
        sent = [*sent, *new]
        reason: FinishReason | None = None
        if mask is not None and mask.finished:
            reason = "stop"
        elif call.completion_tokens >= call.max_tokens:
            sent += mask.close() if mask is not None else []
            reason = "length"
        return Advance(call, tuple(sent), reason)

    def _count(self, count: int, started: float) -> None:
        self._counts["mask_total"] += count
        self._counts["mask_seconds_total"] += time.perf_counter() - started
