"""Prefill: whose prompt has its turn, and how long a piece of it takes the machine.

Each prompt is prefilled in its own caches, a piece at a time, so that others decode in between.
"""

import time
from collections.abc import Callable, MutableMapping, Sequence

import mlx.core as mx
from mlx import nn

from agentd.model_server.engine.batch import Row
from agentd.model_server.engine.memory import RowBytes
from agentd.model_server.engine.prompt_cache import Layers, States

# A piece of prefill while others decode: the longest gap between two of their tokens. Where a step
# itself is slow, as on a CPU, a piece this short would read all the weights for a few tokens: there
# it may take as long as two steps.
PIECE_S = 0.1
PIECE_STEPS = 2.0
# While nobody decodes; a cancelled call holds its slot no longer than this. On a CPU 64 tokens at
# a time are prefilled twice as fast as 16.
PIECE_ALONE_S = 0.4
PIECE_TOKENS_MAX = 2048
QUANTUM_S = 1.0  # of prefill, after which another prompt has its turn
ALONE_AFTER = 2  # failed steps, after which rows decode alone
WARM_UP_TOKENS = 8
PATIENCE_S = 10.0  # of a prompt in prefill; for each of these it counts as one class higher


class Prefill:
    """The prompts in prefill. `rate` is what `warm_up` measured; `counts` are of /metrics."""

    def __init__(self, model: nn.Module, rate: float, counts: MutableMapping[str, float]) -> None:
        self.rows: list[Row] = []
        self.best_rate = rate  # tokens a second that this machine can prefill
        self.step_s = 0.0  # of a decoding step, smoothed
        self.piece_tokens = {  # by: others decode
            busy: max(1, min(round(rate * seconds), 4 * WARM_UP_TOKENS))
            for busy, seconds in ((True, PIECE_S), (False, PIECE_ALONE_S))
        }
        self._model, self._counts = model, counts

    def next(self, decoding: Sequence[Row]) -> Row | None:
        """Return the prompt whose turn it is: by class, then by turns had, then the oldest.

        A prompt that had its quantum waits for those that had fewer, so that one of 8,000 tokens
        holds up short ones for a second and not for a minute. None starves: its deadline runs.
        """
        if not self.rows:
            return None
        both = (*decoding, *self.rows)
        if decoding and any(row.recoveries >= ALONE_AFTER for row in both):
            return None  # which of them is it that breaks the step? One row at a time shows it
        now = time.monotonic()

        def order(row: Row) -> tuple[int, int, int, int]:
            patience = int((now - row.prefill_since) / PATIENCE_S)
            rank = max(0, row.call.rank - patience)
            weight = 0 if patience else row.call.weight
            return rank, row.quanta, weight, row.call.number

        return min(self.rows, key=order)

    def piece_s(self, busy: bool) -> float:
        """Return how long a step may prefill; `busy`: while others decode."""
        return max(PIECE_S, PIECE_STEPS * self.step_s) if busy else PIECE_ALONE_S

    def tokens(self, share: float, busy: bool) -> int:
        """Return how many tokens a piece, or a `share` of one, has."""
        return max(1, int(self.piece_tokens[busy] * share))

    def piece(
        self, row: Row, share: float, busy: bool, checkpoint: Callable[[Layers], States]
    ) -> mx.array | None:
        """Prefill a piece of a prompt, or a `share` of one; after its last one, return the logits.

        `checkpoint` is asked for the state of the caches where one is due.
        """
        count = min(self.tokens(share, busy), row.pending)
        if row.marks:
            count = min(count, row.marks[0] - row.fed)
        started = time.perf_counter()
        piece = row.tokens[row.fed : row.fed + count]
        logits = self._model(mx.array([piece]), cache=row.layers)[:, -1]
        last = count == row.pending
        # The output layer of a piece in the middle is never computed.
        mx.eval([layer.state for layer in row.layers or ()], logits if last else [])
        row.fed += count
        self.timed(row, count, time.perf_counter() - started, busy)
        if row.marks and row.fed == row.marks[0]:
            row.states[row.marks.pop(0)] = checkpoint(row.layers or [])
        return logits if last else None

    def timed(self, row: Row, count: int, took: float, busy: bool) -> None:
        """Count a piece, and choose the next one's length."""
        self._counts["prefill_tokens_total"] += count
        self._counts["prefill_seconds_total"] += took
        self.best_rate = max(self.best_rate, count / took)
        row.quantum_s += took
        if row.quantum_s >= QUANTUM_S:
            row.quanta, row.quantum_s = row.quanta + 1, 0.0
        if count < self.piece_tokens[busy] and count < WARM_UP_TOKENS:
            return  # says nothing of longer ones
        # Twice as many at most: one fast piece must not lead to a very long one.
        wanted = min(
            round(count / took * self.piece_s(busy)), 2 * max(count, self.piece_tokens[busy])
        )
        self.piece_tokens[busy] = max(1, min(wanted, PIECE_TOKENS_MAX))


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
