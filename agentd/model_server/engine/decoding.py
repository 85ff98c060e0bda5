"""Steps of the rows that decode: a token of each, while the device already works on the next."""

import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from operator import is_

import mlx.core as mx
from mlx import nn

from agentd.model_server.calls import Advance
from agentd.model_server.engine.batch import Batch, Row
from agentd.model_server.engine.next_tokens import NextTokens
from agentd.model_server.engine.prefill import Prefill
from agentd.model_server.protocols import Language

GOOD_STEPS = 8  # after which a row is no suspect any more
WITHIN_A_TEXT = 4  # tokens in a row with nothing forced behind them, where more will come


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
        self._under_way: _Flight | None = None
        self._late_error: Exception | None = None  # of a pass that a step's end started

    @property
    def rows(self) -> list[Row]:
        """Return the rows that decode."""
        return self.batch.rows

    def step(self, *, joining: bool) -> list[Advance]:
        """Decode one token of each row, but of those that still read what is forced.

        `joining`: others join before the next step. It does not start without them, who would wait
        for one more.
        """
        if not self.batch.rows:
            self._late_error = None  # those that it broke have left
            return []
        if self._late_error is not None:
            error, self._late_error = self._late_error, None
            raise error
        started = time.perf_counter()
        rows, logits = self._passed()
        chosen = self.next.choose(rows, logits)
        if not joining and self._goes_on(rows):
            # By themselves: what is begun in one call counts as computed when all of it is.
            mx.async_eval(chosen.tokens, chosen.labels, chosen.readings)  # type: ignore[no-untyped-call]
            self._under_way = self._begun(self._following(rows, chosen.tokens))
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
        advances += self.leave([r for r in self.batch.rows if r.call.number in ended])
        if not joining:
            self._start()
        return advances

    def leave(self, rows: Sequence[Row]) -> list[Advance]:
        """Let rows go; return what there is to say of others, if that broke the batch."""
        try:
            for at, row in enumerate(self.batch.rows):
                if row in rows and row.call.continues:
                    row.layers = self.batch.own(at)
                    self._keep(row)
                    row.layers = None
            self.batch.leave(rows)
        except Exception as error:  # their last tokens are chosen, and will be delivered
            self.batch.rows = [row for row in self.batch.rows if row not in rows]
            return self._recover(error)
        return []

    def empty(self) -> list[Row]:
        """Drop a batch that cannot be relied on; return its rows, whose caches are gone."""
        rows, self.batch = self.batch.rows, Batch(self._model)
        self._under_way = self._late_error = None
        return rows

    def _passed(self) -> tuple[list[Row], mx.array]:
        """Return the rows that a pass brought to the end of what is known of them, and its logits.

        A pass that is under way may have rows that left since, and lacks those that came.
        """
        ready: list[int] = []
        while not ready:
            done = self._under_way or self._begun()  # masks come meanwhile
            self._under_way = None
            here = set(map(id, self.batch.rows))
            ready = [at for at, row in enumerate(done.rows) if id(row) in here and not row.pending]
        if len(ready) == len(done.rows):
            return done.rows, done.logits
        return [done.rows[at] for at in ready], done.logits[mx.array(ready)]

    def _goes_on(self, rows: Sequence[Row]) -> bool:
        """Whether the next pass may start before it is known what these rows' tokens are.

        So the device never waits for a mask, a text or a tokenizer. It is for nothing where none
        goes on, and where a single row has several tokens forced after this one, that would go
        through the model in the same pass: as a rule it has, unless it is within a text.
        """
        if not self._pipelined:
            return False
        if all(_last(row) for row in rows) and len(rows) == len(self.batch):
            return False
        alone = rows[0].call.mask is not None and len(self.batch) == 1
        return not alone or rows[0].unforced >= WITHIN_A_TEXT

    def _following(self, rows: Sequence[Row], chosen: mx.array) -> mx.array:
        """Return the next token of each row of the batch: chosen for these, known of others."""
        if len(rows) == len(self.batch) and all(map(is_, rows, self.batch.rows)):
            return chosen
        place = {id(row): at for at, row in enumerate(rows)}
        waiting = [row for row in self.batch.rows if id(row) not in place]
        place |= {id(row): at for at, row in enumerate(waiting, len(rows))}
        known = mx.array([row.tokens[row.fed] for row in waiting], chosen.dtype)
        order = mx.array([place[id(row)] for row in self.batch.rows])
        return mx.concatenate([chosen, known])[order]

    def _start(self) -> None:
        """Start the next pass, so that the device works while texts are delivered."""
        if not self._pipelined or not self.batch.rows:
            self._under_way = None
            return
        try:
            self._under_way = self._under_way or self._begun()
        except Exception as error:  # this step's tokens are chosen, and will be delivered
            self._late_error = error

    def _begun(self, tokens: mx.array | None = None) -> "_Flight":
        logits = self.batch.feed(tokens)
        mx.async_eval(logits)  # type: ignore[no-untyped-call]
        return _Flight(list(self.batch.rows), logits)


@dataclass
class _Flight:
    """A pass through the model: its rows, and their logits, not yet computed."""

    rows: list[Row]
    logits: mx.array


def _last(row: Row) -> bool:
    """Whether the row's next token is its answer's last one."""
    return row.call.completion_tokens + len(row.unsent) + 1 >= row.call.max_tokens
