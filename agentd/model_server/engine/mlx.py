"""The real engine: one model on MLX that decodes all admitted calls together.

A step is one forward pass for all decoding rows, and a piece of prefill: of one row's prompt, or of
several short ones at once. Rows are prefilled in caches of their own, so that a prompt that breaks
breaks its own call. Then they join the batch.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from agentd.model_server.calls import Advance, Call
from agentd.model_server.engine import cpu_attention, memory, prompt_cache_file
from agentd.model_server.engine.batch import Batch, Row, batches_rightly
from agentd.model_server.engine.decoding import Decoding
from agentd.model_server.engine.metrics import ENGINE_COUNTERS
from agentd.model_server.engine.next_tokens import forced_logprobs
from agentd.model_server.engine.output_layer import OutputPositions
from agentd.model_server.engine.prefill import BESIDE, WARM_UP_TOKENS, Prefill, PrefillPass, warm_up
from agentd.model_server.engine.prompt_cache import Layers, PromptCaches
from agentd.model_server.engine.sampling import Sampler
from agentd.model_server.engine.scoring import Kept, ScoredRow, Scorer
from agentd.model_server.engine.slots import SLOTS_MAX, Slots
from agentd.model_server.engine.weights import load_weights
from agentd.model_server.protocols import Language

RECOVERIES_MAX = 2  # failed steps that a call may have been in; the next one was its own
TRIAL_TOKENS = 24
MARKS_MAX = 3  # checkpoints of a prompt: its fixed part's end, and the ends of its last events


class MlxEngine:
    """Runs a model folder. See `protocols.Engine` for the methods.

    Making one loads the weights and generates a token, so that the first call finds all warm.
    `cache_bytes` is the prompt caches' ceiling. They are read from the file `saved` at the start,
    and the last used, `saved_bytes` of them at most, are written to it by `save`.

    Raises:
        ConfigError: the folder holds no model that mlx_lm can run.
    """

    def __init__(
        self,
        folder: Path,
        language: Language,
        *,
        fast_blas: bool,
        cache_bytes: int | None = None,
        saved: Path | None = None,
        saved_bytes: int = 0,
        slots: int = SLOTS_MAX,
        pipelined: bool = True,
    ) -> None:
        cpu_attention.speed_up()
        total = memory.set_limits()
        self._model: nn.Module = load_weights(folder, fast_blas=fast_blas)
        positions = OutputPositions(self._model)
        self._lost: list[Advance] = []  # to be told with the next step's
        self._joining: list[Batch] = []  # that join before it
        self._counts = dict.fromkeys(ENGINE_COUNTERS, 0.0)
        first = (language.encode("Ready to work.") * WARM_UP_TOKENS)[:WARM_UP_TOKENS]
        self._row_bytes, rate = warm_up(self._model, self._layers, first)
        self.budget = memory.share_out(total, cache_bytes)
        self._caches = PromptCaches(self.budget.caches, self._layers)
        trial = (language.encode("Ready to work together.") * TRIAL_TOKENS)[:TRIAL_TOKENS]
        together = slots > 1 and batches_rightly(self._model, self._layers, trial)
        self._prefill = Prefill(self._model, rate, self._caches, self._counts, several=together)
        self._slots = Slots(slots if together else 1, self._row_bytes, self._prefill)
        self._decoding = Decoding(
            self._model,
            language,
            self._prefill,
            self._counts,
            self._keep,
            self.recover,
            pipelined=pipelined,
        )
        kept = Kept(self._take, self._keep)
        self._scorer = Scorer(self._model, positions, self._prefill, kept, several=together)
        self._saved, self._saved_bytes = saved, saved_bytes
        self._identity = prompt_cache_file.identity(folder)
        if saved is not None:
            prompt_cache_file.load(
                self._caches, saved, self._identity, prefill_rate=self._prefill.best_rate
            )

    @property
    def slots(self) -> int:
        """Rows that this machine decodes in a step of a bearable length."""
        return self._slots.count

    def fits(self, call: Call) -> bool:
        """Whether there is a slot and memory.

        Raises:
            Refused: it would not fit if it were alone.
        """
        return self._slots.fit(call, self._read_rows, self.budget.batch)

    def admit(self, call: Call) -> None:
        """Give the call a slot."""
        self._make_way(call)
        if call.scoring is not None:
            row: Row = ScoredRow.of(call, call.scoring)
        else:
            forced = call.mask.forced() if call.mask else []
            row = Row(call, Sampler(call), tokens=[*call.prompt, *forced], unsent=forced)
            marks = [] if self._caches.whole else sorted(set(call.checkpoints))
            row.marks = marks if len(marks) <= MARKS_MAX else [marks[0], *marks[1 - MARKS_MAX :]]
        row.prefill_since = time.monotonic()
        # As many turns as the others had: a newcomer goes before long prompts, but not for ever.
        row.quanta = min((other.quanta for other in self._prefill.rows), default=0)
        self._prefill.rows.append(row)

    def _make_way(self, call: Call) -> None:
        """Have the batch give back what rows left, where it and prompts would take too much.

        Until a prompt joins the batch it has caches of its own, and cannot use that room.
        """
        joining = [row.call for batch in self._joining for row in batch.rows]
        calls = [call, *joining, *(row.call for row in self._prefill.rows)]
        wanted = sum(self._row_bytes(one.length) for one in calls)
        if self._decoding.batch.nbytes + wanted > self.budget.batch:
            self._decoding.batch.give_back()

    def step(self) -> list[Advance]:
        """Decode one token of each row, and prefill a piece of one prompt, or short ones together.

        On a CPU the piece is computed beside the step, else after it, and then more of them.
        """
        share = 1.0  # of a piece: the others wait for a long prompt's caches to be copied, too
        if self._joining:
            began = time.perf_counter()
            self._join()
            share -= (time.perf_counter() - began) / self._prefill.piece_s(True)
        advances, self._lost = self._lost, []
        busy = bool(self._decoding.rows)
        finish = self._start(share) if share > 0 else list
        try:
            advances += self._decoding.step(joining=self._prefill.ends)
        except Exception:
            self._lost += finish()  # what was prefilled stands
            raise
        began = time.perf_counter()
        while True:
            waiting = len(self._prefill.rows)
            advances += finish()
            piece_s = self._prefill.piece_s(bool(self._decoding.rows))
            left_s = piece_s - (time.perf_counter() - began)
            ended = len(self._prefill.rows) < waiting
            # A few tokens more would take the others as much time as a step.
            if not ended or left_s < self._prefill.step_s or (busy and BESIDE is not None):
                return advances
            finish = self._start(left_s / piece_s)

    def remove(self, call: Call) -> None:
        """Free the slot; what was prefilled is kept for the session."""
        self._join()  # first: rows that cannot are begun again, and this one may be among them
        for row in self._prefill.rows:
            if row.call is call:
                self._prefill.rows.remove(row)
                self._keep(row)
                return
        self._lost += self._decoding.leave([row for row in self._decoding.rows if row.call is call])

    def recover(self, error: Exception) -> list[Advance]:
        """Begin again from the rows' tokens, after `step` raised: a half-done step spoils them all.

        A call that was in too many failed steps is given up with `error`.
        """
        lost = []
        for row in self._decoding.empty():
            row.begin_again()
            row.prefill_since = time.monotonic()
            if row.recoveries > RECOVERIES_MAX:
                lost.append(Advance(row.call, error=error))
            else:
                self._prefill.rows.append(row)
        mx.clear_cache()
        return lost

    def cache_bytes(self) -> int:
        """Return the bytes that prompt caches take."""
        return self._caches.bytes

    def counters(self) -> Mapping[str, float]:
        """Return counters and gauges by name, for /metrics."""
        return {
            **self._counts,
            "slots": self.slots,
            "cache_tokens": self._caches.tokens,
            "cache_limit_bytes": self.budget.caches,
            "batch_limit_bytes": self.budget.batch,
            "decoding": len(self._read_rows),
            "prefilling": len(self._prefill.rows),
            "active_memory_bytes": mx.get_active_memory(),
            "peak_memory_bytes": mx.get_peak_memory(),
        }

    def save(self) -> None:
        """Write the prompt caches down, for the next start, if there are new ones."""
        if self._saved is not None and self._caches.changed:
            prompt_cache_file.save(self._caches, self._saved, self._identity, self._saved_bytes)

    def close(self) -> None:
        """Let go of all memory. The engine cannot be used any more."""
        self._caches.clear()
        del self._model, self._decoding, self._joining, self._prefill, self._slots
        del self._scorer, self._caches
        gc.unfreeze()
        gc.collect()  # model and caches refer to each other
        mx.clear_cache()

    # -- prefill --------------------------------------------------------------------------------

    def _start(self, share: float) -> Callable[[], list[Advance]]:
        """Begin a piece of prefill, or a `share` of one; return what ends it."""
        busy = bool(self._decoding.rows)
        rows = self._prefill.next(self._decoding.rows, share)
        if not rows:
            return list
        row, call = rows[0], rows[0].call
        if call.mask is not None and call.mask.finished and row.unsent:  # one legal answer only
            return partial(self._ended, row, self._only_answer(row))
        if isinstance(row, ScoredRow):
            return partial(self._score, row, share)
        try:
            rows = self._prefill.with_known(rows, self._take_known, share, busy)
            if busy and all(row.fed and row.pending == 1 and not row.marks for row in rows):
                # Their own pass for a token each would cost the others as much as a step.
                self._counts["prefill_tokens_total"] += len(rows)
                advances = [Advance(row.call) for row in rows]
                return partial(self._is_read, Batch.of(self._model, rows), advances)
            return partial(self._finish, self._prefill.begin(rows, share, busy))
        except Exception as error:  # in their own caches: no other row is touched
            return partial(self._broken, rows, error)

    def _finish(self, begun: PrefillPass) -> list[Advance]:
        """End a piece; rows that are ready join the batch."""
        rows = begun.rows
        try:
            self._prefill.end(begun)
            ready = [row for row in rows if row.pending <= 1 and not row.marks]
            for row in ready:
                self._keep(row)
            advances = [Advance(row.call) for row in rows]
            if begun.logits is not None:
                chosen = self._decoding.next.choose(rows, begun.logits)
                advances = self._decoding.next.accept(rows, chosen)
        except Exception as error:
            return self._broken(rows, error)
        if advances[0].last:
            return self._ended(rows[0], advances[0])
        joining = begun.batch if len(ready) == len(rows) else Batch.of(self._model, ready)
        return self._is_read(joining, advances) if ready else advances

    def _is_read(self, batch: Batch, advances: list[Advance]) -> list[Advance]:
        """Let rows go on to decode: with the next step, so that this one's tokens do not wait."""
        self._prefill.rows = [row for row in self._prefill.rows if row not in batch.rows]
        self._joining.append(batch)
        if not self._decoding.rows:
            self._join()
        return advances

    def _join(self) -> None:
        """Take those into the batch whose prompts are read."""
        while self._joining:
            batch = self._joining.pop(0)
            rows = list(batch.rows)
            try:
                self._decoding.batch.take_in(batch)
            except Exception as error:  # their first tokens are delivered, and they begin again
                self._decoding.rows.extend(rows)
                self._lost += self.recover(error)

    @property
    def _read_rows(self) -> list[Row]:
        return [*self._decoding.rows, *(row for batch in self._joining for row in batch.rows)]

    def _broken(self, rows: Sequence[Row], error: Exception) -> list[Advance]:
        """End the call whose prompt breaks; of several in one pass each begins again, alone."""
        if len(rows) == 1:
            return self._ended(rows[0], Advance(rows[0].call, error=error))
        self._counts["prefill_failures_total"] += 1
        for row in rows:
            row.begin_again()
        return [Advance(row.call) for row in rows]

    def _ended(self, row: Row, advance: Advance) -> list[Advance]:
        self._prefill.rows.remove(row)
        return [advance]

    def _only_answer(self, row: Row) -> Advance:
        row.call.completion_tokens += len(row.unsent)
        told = forced_logprobs(row.call, row.unsent)
        return Advance(row.call, tuple(row.unsent), "stop", logprobs=told)

    def _score(self, row: ScoredRow, share: float) -> list[Advance]:
        try:
            advance = self._scorer.advance(row, share, bool(self._decoding.rows))
        except Exception as error:
            return self._broken([row], error)
        return self._ended(row, advance) if advance.last else [advance]

    def _take_known(self, row: Row) -> None:
        """Take what is known of the prompt."""
        row.layers, row.fed = self._take(row.tokens)
        if not row.recoveries:
            row.call.cached_tokens = min(row.fed, len(row.call.prompt))
        row.marks = [mark for mark in row.marks if mark > row.fed]

    def _keep(self, row: Row) -> None:
        if row.layers is None or not row.fed:
            return
        try:
            self._caches.put(row.tokens[: row.fed], row.layers, row.states, guest=row.call.guest)
        except Exception:  # no memory, as a rule: a cache is worth time and no answer
            self._caches.clear()
            self._counts["cache_failures_total"] += 1
        row.states = {}

    def _take(self, tokens: Sequence[int]) -> tuple[Layers, int]:
        """Return the longest known beginning, computed: it may still lie in the file."""
        try:
            layers, size = self._caches.take(tokens)
            mx.eval([layer.state for layer in layers] if size else [])
        except Exception:  # the file cannot be read any more
            self._caches.clear()
            self._counts["cache_failures_total"] += 1
            return self._layers(), 0
        return layers, size

    def _layers(self) -> Layers:
        layers: Layers = make_prompt_cache(self._model)
        return layers
