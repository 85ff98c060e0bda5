"""Scores: how likely items are behind heads. Texts are read, none is generated.

A head is prefilled as any prompt, all but its last token, and its caches are kept as a prompt's
beginning. Then items are read behind copies of these caches, several at once, the shortest first.
Each of their rows begins with the head's last token, so that its logits say how likely the item's
tokens are. Rows are padded at their ends, where no token before looks; their caches are dropped.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map

from agentd.model_server.calls import Advance, Call, Scoring
from agentd.model_server.engine.batch import Row
from agentd.model_server.engine.output_layer import OutputPositions
from agentd.model_server.engine.prefill import Prefill
from agentd.model_server.engine.prompt_cache import Layers
from agentd.model_server.engine.sampling import Sampler

LOGITS_MAX = 2**24  # values that a pass may give: positions times vocabulary
# Tokens of a pass, by whether others decode. It reads all weights, be it for one token or some: on
# a busy machine, whose passes are slow, pieces would become short, and so slower still.
TOKENS_MIN = {True: 8, False: 32}


@dataclass
class Together:
    """Items of one head that are read at once, up to the column `fed`."""

    places: Sequence[int]  # of the items
    layers: Layers
    tokens: mx.array  # what is fed; this and the others are [items, columns]
    wanted: mx.array  # what comes behind each of them
    real: mx.array  # whether that is a token of the item, or else padding
    sums: mx.array  # of the log-probabilities so far; [items]
    fed: int = 0


@dataclass(eq=False)
class ScoredRow(Row):
    """A call that scores. Its tokens are those of the head whose items are read."""

    scoring: Scoring = field(kw_only=True)
    scores: dict[int, float] = field(default_factory=dict)  # of the head's items, by place
    together: Together | None = None

    @classmethod
    def of(cls, call: Call, scoring: Scoring) -> "ScoredRow":
        """Return a call's row, at its first head."""
        row = cls(call, Sampler(call), [], [], scoring=scoring)
        row.begin()
        return row

    @property
    def items(self) -> Sequence[Sequence[int]]:
        """The items of the head."""
        return self.scoring.items[len(self.scoring.scores)]

    def begin(self) -> None:
        """Turn to the head whose scores come next."""
        self.tokens = list(self.scoring.heads[len(self.scoring.scores)])
        self.layers, self.fed, self.states, self.scores = None, 0, {}, {}
        self.marks = [len(self.tokens) - 1]  # its last token is read with the items
        self.prefill_since = time.monotonic()  # it waits as long as a prompt, and then as another

    def end(self) -> bool:
        """Give the head's scores, go on to the next one; return whether there is none."""
        self.scoring.scores.append([self.scores[place] for place in range(len(self.items))])
        ended = len(self.scoring.scores) == len(self.scoring.heads)
        if not ended:
            self.begin()
        return ended


@dataclass(frozen=True)
class Kept:
    """The prompt caches, as a scorer uses them: they give layers, and take a row's."""

    take: Callable[[Sequence[int]], tuple[Layers, int]]
    keep: Callable[[Row], None]


class Scorer:
    """Advances calls that score; `several`: whether this model may read several items at once."""

    def __init__(
        self,
        model: nn.Module,
        output: OutputPositions,
        prefill: Prefill,
        kept: Kept,
        *,
        several: bool,
    ) -> None:
        self._model, self._output, self._prefill = model, output, prefill
        self._kept, self._several = kept, several
        vocabulary = model(mx.array([[0]])).shape[-1]  # known without a pass
        self._positions = max(1, LOGITS_MAX // vocabulary)

    def advance(self, row: ScoredRow, share: float, busy: bool) -> Advance:
        """Read a piece of a head, or of items behind it, or a `share` of one."""
        if row.layers is None:
            row.layers, row.fed = self._kept.take(row.tokens)
            row.call.cached_tokens += row.fed
        if row.pending > 1:
            self._prefill.end(self._prefill.begin([row], share, busy))
            if row.pending == 1:
                self._kept.keep(row)
            return Advance(row.call)
        self._items(row, share, busy)
        done = len(row.scores) == len(row.items) and row.end()
        return Advance(row.call, finish="scored" if done else None)

    def _items(self, row: ScoredRow, share: float, busy: bool) -> None:
        started = time.perf_counter()
        most = min(max(TOKENS_MIN[busy], self._prefill.tokens(share, busy)), self._positions)
        group = row.together = row.together or self._next(row, most)
        rows, longest = group.tokens.shape
        count = min(max(1, most // rows), longest - group.fed)
        self._read(group, count)
        self._prefill.timed(row, rows * count, time.perf_counter() - started, busy)
        if group.fed == longest:
            sums: Any = group.sums.tolist()
            row.scores.update(zip(group.places, sums, strict=True))
            row.together = None

    def _next(self, row: ScoredRow, most: int) -> Together:
        """Take the shortest items left: as many as fit into `most` tokens, one at least."""
        items, head = row.items, len(row.tokens)
        left = sorted(set(range(len(items))) - row.scores.keys(), key=lambda at: len(items[at]))
        places = left[:1]
        for place in left[1:] if self._several else ():
            rows, length = len(places) + 1, len(items[place])
            if rows * length > most or rows * (head + length) > row.call.length:
                break
            places.append(place)
        chosen = [items[place] for place in places]
        fed = [[row.tokens[-1], *item[:-1]] for item in chosen]
        return Together(
            places,
            _copies(row.layers or [], len(places)),
            tokens=mx.array(_padded(fed)),
            wanted=mx.array(_padded(chosen)),
            real=mx.array(_padded([[1] * len(item) for item in chosen])),
            sums=mx.zeros(len(places)),
        )

    def _read(self, group: Together, count: int) -> None:
        """Read some columns."""
        columns = slice(group.fed, group.fed + count)
        with self._output.every():
            logits = self._model(group.tokens[:, columns], cache=group.layers).astype(mx.float32)
        wanted = mx.take_along_axis(logits, group.wanted[:, columns, None], axis=-1)[..., 0]
        likely = wanted - mx.logsumexp(logits, axis=-1)
        group.sums += mx.where(group.real[:, columns], likely, 0).sum(axis=-1)
        mx.eval(group.sums, [layer.state for layer in group.layers])
        group.fed += count


def _copies(layers: Layers, count: int) -> Layers:
    """Return caches of so many rows that hold what a single row's caches hold."""
    found = copy.deepcopy(layers)
    for layer in found:
        layer.state = tree_map(lambda part: _repeated(part, count), layer.state)
    return found


def _repeated(part: Any, count: int) -> Any:
    return mx.repeat(part, count, axis=0) if isinstance(part, mx.array) else part


def _padded(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, rows))
    return [[*row, *[0] * (longest - len(row))] for row in rows]
