"""Steps of the rows that decode: a token of each, while the device already works on the next."""

import time
from collections.abc import Callable, MutableMapping, Sequence

import mlx.core as mx
from mlx import nn

from agentd.model_server.calls import Advance
from agentd.model_server.engine.batch import Batch, Row, kept_places
from agentd.model_server.engine.next_tokens import Chosen, NextTokens
from agentd.model_server.engine.prefill import Prefill
from agentd.model_server.engine.sampling import choose
from agentd.model_server.protocols import Language

GOOD_STEPS = 8  # after which a row is no suspect any more


class Decoding:
    """The batch and its steps. `counts` are of /metrics.

    `keep` is given the rows that leave with caches that a prompt may continue, `recover` the error
    of a batch that they cannot leave.
    """

    def __init__(
        self,
        model: nn.Module,
        language: Language,
        prefill: Prefill,
        counts: MutableMapping[str, float],
        keep: Callable[[Row], None],
        recover: Callable[[Exception], list[Advance]],
        *,
        pipelined: bool,
    ) -> None:
        self.batch = Batch(model)
        self.next = NextTokens(language, counts)
        self._model, self._prefill, self._counts = model, prefill, counts
        self._keep, self._recover, self._pipelined = keep, recover, pipelined
        self._ahead: mx.array | None = None  # the rows' next tokens, being computed

    @property
    def rows(self) -> list[Row]:
        """Return the rows that decode."""
        return self.batch.rows

    def step(self) -> list[Advance]:
        """Decode one token of each row."""
        if not self.batch.rows:
            return []
        started = time.perf_counter()
        rows = list(self.batch.rows)
        if self._ahead is not None:
            chosen = Chosen(self._ahead)
        else:
            logits = self.batch.feed()
            mx.async_eval(logits)  # type: ignore[no-untyped-call]  # masks are computed meanwhile
            ready = [at for at, row in enumerate(rows) if not row.pending]
            if len(ready) < len(rows):
                rows, logits = [rows[at] for at in ready], logits[mx.array(ready)]
            chosen = self.next.choose(rows, logits)
        self._ahead = self._look_ahead(rows, chosen.tokens)
        advances = self.next.accept(rows, chosen)
        took = time.perf_counter() - started
        self._prefill.step_s += (took - self._prefill.step_s) / 8 if self._prefill.step_s else took
        self._counts["decode_steps_total"] += 1
        self._counts["decode_seconds_total"] += took
        self._counts["decode_rows_total"] += len(self.batch)
        for row in rows if len(self.batch) > 1 else ():
            row.good_steps += 1
            if row.good_steps >= GOOD_STEPS:
                row.recoveries = 0
        ended = {advance.call.number for advance in advances if advance.last}
        return advances + self.leave([r for r in self.batch.rows if r.call.number in ended])

    def leave(self, rows: Sequence[Row]) -> list[Advance]:
        """Let rows go; return what there is to say of others, if that broke the batch."""
        try:
            if self._ahead is not None and rows:
                keep = kept_places([row not in rows for row in self.batch.rows])
                self._ahead = self._ahead[mx.array(keep)] if keep else None
            self.batch.leave(rows)
        except Exception as error:  # their last tokens are chosen, and will be delivered
            self.batch.rows = [row for row in self.batch.rows if row not in rows]
            return self._recover(error)
        for row in rows:
            if row.call.continues:
                self._keep(row)
        return []

    def empty(self) -> list[Row]:
        """Drop a batch that cannot be relied on; return its rows, whose caches are gone."""
        rows, self.batch, self._ahead = self.batch.rows, Batch(self._model), None
        return rows

    def _look_ahead(self, rows: Sequence[Row], tokens: mx.array) -> mx.array | None:
        """Start the next step before this one's tokens are read, so that MLX never waits for us.

        A mask or a penalty needs to know the tokens, a row that joins needs all others to stand
        still, and what is told of a token is read off its own step.
        """
        last = any(row.call.completion_tokens + 2 > row.call.max_tokens for row in rows)
        calls = [row.call for row in self.batch.rows]
        alone = any(c.mask or c.top_logprobs is not None or c.repeats_less for c in calls)
        if not self._pipelined or last or alone or self._prefill.rows:
            return None
        logits = self.batch.feed(tokens)
        positions = [row.call.completion_tokens + 1 for row in rows]
        ahead = choose(logits, [row.sampler for row in rows], positions)
        mx.async_eval(ahead)  # type: ignore[no-untyped-call]
        return ahead
