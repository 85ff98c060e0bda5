"""Prefill: whose prompt has its turn, and how long a piece of it takes the machine.

A prompt is prefilled in its own caches, a piece at a time, so that others decode in between. Short
ones that wait together are read in one pass, each behind its own beginning.
"""

import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import mlx.core as mx
from mlx import nn

from agentd.model_server.engine.batch import Batch, Row
from agentd.model_server.engine.memory import RowBytes
from agentd.model_server.engine.prompt_cache import WORTH_REUSING, Layers, PromptCaches, common

# A piece of prefill while others decode: the longest gap between two of their tokens. Where a step
# itself is slow, as on a CPU, a piece this short would read all the weights for a few tokens: there
# it may take as long as so many steps.
PIECE_S = 0.1
PIECE_STEPS = 2.6
# While nobody decodes; a cancelled call holds its slot no longer than this. On a CPU 64 tokens at
# a time are prefilled twice as fast as 16.
PIECE_ALONE_S = 0.4
PIECE_TOKENS_MAX = 2048
# Of a piece's time, by: others decode. Its tokens have more to look at than the last piece's had.
AIMED_AT = {True: 0.65, False: 0.85}
GROWTH = 1.5  # from a piece to the next one
QUANTUM_S = 1.0  # of prefill, after which another prompt has its turn
ALONE_AFTER = 2  # failed steps, after which rows decode alone
WARM_UP_TOKENS = 8
WORTH_WAITING = 0.2  # of a prompt, which another one's pass leaves in the caches
PATIENCE_S = 10.0  # of a prompt in prefill; for each of these it counts as one class higher


# Where a CPU computes, pieces have a thread of their own beside the steps, as far as MLX lets them:
# it has ten operations under way at most, and waits before it takes more. Of a pass only the
# products of matrices take two cores, so a small model's steps have one to spare.
BESIDE = mx.new_thread_local_stream(mx.cpu) if mx.default_device() == mx.cpu else None


@dataclass
class PrefillPass:
    """Prompts that are taken further by some tokens each, in one forward pass."""

    batch: Batch
    counts: Sequence[int]
    busy: bool  # others decode
    began: float = field(default_factory=time.perf_counter)
    logits: mx.array | None = None  # behind a single prompt that ends with this pass

    @property
    def rows(self) -> list[Row]:
        """Return the prompts."""
        return self.batch.rows

    @property
    def computed(self) -> list[Any]:
        """Return what is to be computed: the output layer of a piece in the middle is not."""
        return [self.batch.state, *([] if self.logits is None else [self.logits])]


class Prefill:
    """The prompts in prefill. `rate` is what `warm_up` measured; `counts` are of /metrics.

    `several`: whether this model may read several prompts in one pass.
    """

    def __init__(
        self,
        model: nn.Module,
        rate: float,
        caches: PromptCaches,
        counts: MutableMapping[str, float],
        *,
        several: bool,
    ) -> None:
        self.rows: list[Row] = []
        self.best_rate = rate  # tokens a second that this machine can prefill
        self.step_s = 0.0  # of a decoding step, smoothed
        self.piece_tokens = {  # by: others decode
            busy: max(1, min(round(rate * seconds), 4 * WARM_UP_TOKENS))
            for busy, seconds in ((True, PIECE_S), (False, PIECE_ALONE_S))
        }
        self._model, self._caches, self._counts = model, caches, counts
        self._several = several

    @property
    def ends(self) -> bool:
        """Whether a prompt is read with what has begun."""
        return any(row.layers is not None and row.pending <= 1 for row in self.rows)

    def next(self, decoding: Sequence[Row], share: float) -> list[Row]:
        """Return the prompt whose turn it is, and those after it that end with it in one pass.

        While others decode, those that are known but for their last token come all at once: it goes
        with the others' step. Their order: by class, then by turns had, then the oldest. A prompt
        that had its quantum waits for those that had fewer, so that one of 8,000 tokens holds up
        short ones for a second and not for a minute. None starves: its deadline runs.
        """
        if not self.rows:
            return []
        if decoding and any(row.recoveries >= ALONE_AFTER for row in (*decoding, *self.rows)):
            return []  # which of them is it that breaks the step? One row at a time shows it
        now = time.monotonic()

        def order(row: Row) -> tuple[int, int, int, int]:
            patience = int((now - row.prefill_since) / PATIENCE_S)
            rank = max(0, row.call.rank - patience)
            weight = 0 if patience else row.call.weight
            return rank, row.quanta, weight, row.call.number

        waiting = sorted(self.rows, key=order)
        found: list[Row] = []
        if decoding and self._several and (known := [*takewhile(self._is_known, waiting)]):
            return known
        most, longest = self.tokens(share, bool(decoding)), 0
        for row in waiting if self._several else ():
            pending = self.pending(row)
            longest = max(longest, pending)
            fits = pending > 1 and (len(found) + 1) * longest <= most
            if not fits or not _may_share(row) or any(_waits(row, pending, one) for one in found):
                break
            found.append(row)
        return found or waiting[:1]

    def pending(self, row: Row) -> int:
        """Return how many tokens of a prompt are to be read, those known before left out."""
        return row.pending if row.layers is not None else self.unknown(row.tokens)

    def _is_known(self, row: Row) -> bool:
        return self.pending(row) == 1 < len(row.tokens) and _may_share(row)

    def unknown(self, tokens: Sequence[int]) -> int:
        """Return how many of a prompt's tokens are not in the caches."""
        return len(tokens) - self._caches.known(tokens)

    def piece_s(self, busy: bool) -> float:
        """Return how long a step may prefill; `busy`: while others decode."""
        return max(PIECE_S, PIECE_STEPS * self.step_s) if busy else PIECE_ALONE_S

    def tokens(self, share: float, busy: bool) -> int:
        """Return how many tokens a piece, or a `share` of one, has."""
        return max(1, int(self.piece_tokens[busy] * share))

    def with_known(
        self, rows: list[Row], take: Callable[[Row], None], share: float, busy: bool
    ) -> list[Row]:
        """Have prompts take what is known of them; return those that had it in time, one at least.

        Long ones are copied, here and when they join, and the others wait meanwhile: for as long as
        a `share` of a piece in all. Where caches cannot be read, prompts have more to read than it
        seemed when these were chosen.
        """
        until = time.perf_counter() + share * self.piece_s(busy) / 2
        for count, row in enumerate(rows, 1):
            left = self.pending(row)
            if row.layers is None:
                take(row)
            if row.pending > left:
                return rows[: count - 1] or [row]
            if time.perf_counter() > until:
                return rows[:count]
        return rows

    def begin(self, rows: Sequence[Row], share: float, busy: bool) -> PrefillPass:
        """Have a piece of a prompt computed, or all but the last token of each of several.

        That one goes with the others' next step, as a CPU has any prompt's do: to look at what a
        pass makes of its last token, it would compute the last layer for all of them. Where a
        checkpoint is due a prompt stops before.
        """
        most = self.tokens(share, busy)
        leave = len(rows) > 1 or (busy and BESIDE is not None)
        ends = [leave and row.pending > 1 and not _marked_at_its_end(row) for row in rows]
        counts = [min(most, row.pending - end) for row, end in zip(rows, ends, strict=True)]
        for at, row in enumerate(rows):
            if row.marks:
                counts[at] = min(counts[at], row.marks[0] - row.fed)
        with mx.stream(BESIDE) if busy and BESIDE is not None else nullcontext():
            begun = PrefillPass(Batch.of(self._model, rows), counts, busy)
            logits = begun.batch.fill(counts)
            if not any(row.pending for row in rows):
                begun.logits = logits
            if busy and BESIDE is not None:
                mx.async_eval(begun.computed)  # type: ignore[no-untyped-call]
        return begun

    def end(self, begun: PrefillPass) -> None:
        """Wait for what was begun. The prompts have their own caches again."""
        rows, counts = begun.rows, begun.counts
        mx.eval(begun.computed)
        took = time.perf_counter() - begun.began
        self.timed(rows[0], sum(counts), took, begun.busy, width=len(rows) * max(counts))
        for at, row in enumerate(rows):
            goes_on = len(rows) > 1 and row.pending > 1
            row.layers = begun.batch.extract(at) if goes_on else begun.batch.own(at)
            if row.marks and row.fed == row.marks[0]:
                row.states[row.marks.pop(0)] = self._caches.checkpoint(row.layers)

    def timed(
        self, row: Row, count: int, took: float, busy: bool, *, width: int | None = None
    ) -> None:
        """Count a piece, and choose the next one's length. `width`: of it, padding included."""
        self._counts["prefill_tokens_total"] += count
        self._counts["prefill_seconds_total"] += took
        count = width or count
        self.best_rate = max(self.best_rate, count / took)
        row.quantum_s += took
        if row.quantum_s >= QUANTUM_S:
            row.quanta, row.quantum_s = row.quanta + 1, 0.0
        if count < self.piece_tokens[busy] and count < WARM_UP_TOKENS:
            return  # says nothing of longer ones
        # The next tokens have more to look at. And short pieces say nothing of a very long one.
        wanted = min(
            round(count / took * self.piece_s(busy) * AIMED_AT[busy]),
            max(round(GROWTH * count), self.piece_tokens[busy]),
        )
        self.piece_tokens[busy] = max(1, min(wanted, PIECE_TOKENS_MAX))


def _may_share(row: Row) -> bool:
    """Whether a prompt may be read with others: it is to be answered, and has broken no step."""
    call = row.call
    answered = call.mask is not None and call.mask.finished and row.unsent
    return not (call.scoring or row.recoveries or answered or _marked_at_its_end(row))


def _marked_at_its_end(row: Row) -> bool:
    """Whether a checkpoint is due behind a prompt's last token."""
    return bool(row.marks) and row.marks[-1] >= len(row.tokens)


def _waits(row: Row, pending: int, other: Row) -> bool:
    """Whether `other` is better read first: it begins alike, for longer than is known yet."""
    new = common(row.tokens, other.tokens) - (len(row.tokens) - pending)
    return new >= max(WORTH_REUSING, pending * WORTH_WAITING)


def warm_up(
    model: nn.Module, make_layers: Callable[[], Layers], tokens: Sequence[int]
) -> tuple[RowBytes, float]:
    """Run a few tokens through the model; return what a row takes, and the tokens a second."""
    took = 0.0
    for _ in range(2):  # slow the first time: memory is touched
        layers = make_layers()
        started = time.perf_counter()
        model(mx.array([tokens]), cache=layers)
        mx.eval([layer.state for layer in layers])
        took = time.perf_counter() - started
    row_bytes = RowBytes(layers)
    mx.eval(mx.argmax(model(mx.array([tokens[:1]]), cache=layers)[0, -1]))
    mx.clear_cache()
    return row_bytes, len(tokens) / took
