"""The real engine: one model on MLX that decodes all admitted calls together.

A step is one forward pass for all decoding rows, then one piece of one row's prefill. Rows are
prefilled one at a time, in their own caches, so that nothing is padded and a prompt that breaks
breaks its own call. Then they join the batch.
"""

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from agentd.model_server.calls import RANK, Advance, Call, Refused
from agentd.model_server.engine import memory, prompt_cache_file
from agentd.model_server.engine.batch import Row, batches_rightly
from agentd.model_server.engine.decoding import Decoding
from agentd.model_server.engine.metrics import ENGINE_COUNTERS
from agentd.model_server.engine.next_tokens import forced_logprobs
from agentd.model_server.engine.output_layer import OutputPositions
from agentd.model_server.engine.prefill import WARM_UP_TOKENS, Prefill, warm_up
from agentd.model_server.engine.prompt_cache import Layers, PromptCaches
from agentd.model_server.engine.sampling import Sampler
from agentd.model_server.engine.scoring import Kept, ScoredRow, Scorer
from agentd.model_server.engine.weights import load_weights
from agentd.model_server.protocols import Language
from agentd.states import Priority

SLOTS_MAX = 16  # rows; more would make each of them slower than a person likes to wait
STEP_S = 0.25  # a decoding step of all rows; a machine that needs longer for them has fewer slots
KEPT_FOR_PERSONS = 1  # slots, where there are more than a few
FEW_SLOTS = 4
# Prompts in prefill: a long one and one that overtakes it. More wait in the fair queue, where a
# person still goes first and no deadline runs. So many calls may score besides, for minutes.
PREFILLING_MAX = 2
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
        if mx.default_device() == mx.cpu:
            # There, MLX compiles by calling the machine's C++ compiler: 1.8 s at each first use and
            # files in the temporary folder, for nothing that can be measured in a step.
            mx.disable_compile()
        total = memory.set_limits()
        self._model: nn.Module = load_weights(folder, fast_blas=fast_blas)
        positions = OutputPositions(self._model)
        self._lost: list[Advance] = []  # to be told with the next step's
        self._counts = dict.fromkeys(ENGINE_COUNTERS, 0.0)
        first = (language.encode("Ready to work.") * WARM_UP_TOKENS)[:WARM_UP_TOKENS]
        self._row_bytes, rate = warm_up(self._model, self._layers, first)
        self._prefill = Prefill(self._model, rate, self._counts)
        self._decoding = Decoding(
            self._model,
            language,
            self._prefill,
            self._counts,
            self._keep,
            self.recover,
            pipelined=pipelined,
        )
        self.budget = memory.share_out(total, cache_bytes)
        trial = (language.encode("Ready to work together.") * TRIAL_TOKENS)[:TRIAL_TOKENS]
        together = slots > 1 and batches_rightly(self._model, self._layers, trial)
        self._slots_max = slots if together else 1
        self._caches = PromptCaches(self.budget.caches, self._layers)
        kept = Kept(self._take, self._keep, self._caches.checkpoint)
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
        return max(1, min(self._slots_max, int(self._prefill.best_rate * STEP_S)))

    def fits(self, call: Call) -> bool:
        """Whether there is a slot and memory: a batch pads, so rows count as the longest does.

        Raises:
            Refused: it would not fit if it were alone.
        """
        length = call.length
        if self._row_bytes(length) > self.budget.batch:
            raise Refused(
                f"{length} tokens of prompt and answer take more memory than the "
                f"{self.budget.batch / 1e9:.1f} GB that there is for them",
                code="context_length_exceeded",
                param="messages",
            )
        rows = [row.call for row in (*self._decoding.rows, *self._prefill.rows)]
        longest = max([length, *(other.length for other in rows)])
        alike = [r.call for r in self._prefill.rows if bool(r.call.scoring) is bool(call.scoring)]
        before = sum(other.rank <= call.rank for other in alike)
        kept = KEPT_FOR_PERSONS if self.slots > FEW_SLOTS else 0
        slots = self.slots - (0 if call.rank == RANK[Priority.PERSON] else kept)
        wanted = (len(rows) + 1) * self._row_bytes(longest)
        return len(rows) < slots and before < PREFILLING_MAX and wanted <= self.budget.batch

    def admit(self, call: Call) -> None:
        """Give the call a slot."""
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

    def step(self) -> list[Advance]:
        """Decode one token of each row, then prefill a piece of one prompt, or of short ones."""
        advances, self._lost = self._lost, []
        advances += self._decoding.step()
        began, share = time.perf_counter(), 1.0
        while (row := self._prefill.next(self._decoding.rows)) is not None:
            advances += self._feed(row, share)
            left_s = self._prefill.piece_s(bool(self._decoding.rows)) - (
                time.perf_counter() - began
            )
            # A few tokens more would take the others as much time as a step.
            if row in self._prefill.rows or left_s < self._prefill.step_s:
                break
            share = left_s / self._prefill.piece_s(bool(self._decoding.rows))
        return advances

    def remove(self, call: Call) -> None:
        """Free the slot; what was prefilled is kept for the session."""
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
            row.recoveries += 1
            row.layers, row.fed, row.states, row.good_steps = None, 0, {}, 0
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
            "decoding": len(self._decoding.rows),
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
        del self._model, self._decoding, self._prefill, self._scorer, self._caches
        gc.unfreeze()
        gc.collect()  # model and caches refer to each other
        mx.clear_cache()

    # -- prefill --------------------------------------------------------------------------------

    def _feed(self, row: Row, share: float) -> list[Advance]:
        """Prefill a piece, or a `share` of one; a row that is ready joins the batch."""
        call = row.call
        try:
            if call.mask is not None and call.mask.finished and row.unsent:  # one legal answer only
                call.completion_tokens += len(row.unsent)
                told = forced_logprobs(call, row.unsent)
                advance = Advance(call, tuple(row.unsent), "stop", logprobs=told)
            elif isinstance(row, ScoredRow):
                advance = self._scorer.advance(row, share, bool(self._decoding.rows))
            elif row.layers is None and self._begin(row):
                return self._join(row, Advance(call))
            else:
                advance = self._piece(row, share)
        except Exception as error:  # in its own caches: no other row is touched
            advance = Advance(call, error=error)
        if advance.last:
            self._prefill.rows.remove(row)
        elif advance.tokens:
            return self._join(row, advance)
        return [advance]

    def _join(self, row: Row, advance: Advance) -> list[Advance]:
        self._prefill.rows.remove(row)
        try:
            self._decoding.batch.join(row)
        except Exception as error:  # its first token is chosen, and will be delivered
            self._decoding.rows.append(row)
            return [advance, *self.recover(error)]
        return [advance]

    def _begin(self, row: Row) -> bool:
        """Take what is known of the prompt; return whether the row can join the batch at once.

        That is where others decode and one token is left: its own pass for that would cost the
        others as much as a step.
        """
        row.layers, row.fed = self._take(row.tokens)
        if not row.recoveries:
            row.call.cached_tokens = min(row.fed, len(row.call.prompt))
        row.marks = [mark for mark in row.marks if mark > row.fed]
        joins = bool(self._decoding.rows) and row.fed > 0 and row.pending == 1 and not row.marks
        self._counts["prefill_tokens_total"] += joins
        return joins

    def _piece(self, row: Row, share: float) -> Advance:
        busy = bool(self._decoding.rows)
        logits = self._prefill.piece(row, share, busy, self._caches.checkpoint)
        if logits is None:
            return Advance(row.call)
        self._keep(row)
        return self._decoding.next.accept([row], self._decoding.next.choose([row], logits))[0]

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
