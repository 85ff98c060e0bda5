"""Rows that decode together: one forward pass gives each of them its next token.

Built on the batch caches of mlx_lm that its BatchGenerator uses too (`merge`, `extend`, `filter`,
`extract`), and not on that class, for three reasons. A grammar often forces several tokens in a
row (keys, punctuation, the rest of an enum): one row, the most common case on a laptop, takes them
in one pass, where BatchGenerator feeds one token a step. BatchGenerator computes the step after an
answer's last token before it looks at that token, so every answer pays for one step more. And
masks are computed outside of the step, so what raises there cannot spoil other rows.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
from mlx import nn

from agentd.model_server.calls import Call
from agentd.model_server.engine.prompt_cache import Layers, States
from agentd.model_server.engine.rows_cache import RowsCache, merged
from agentd.model_server.engine.sampling import Sampler

LENGTHS_TRIED = 4
FAR = 0.1  # standard deviations of the logits; rounding is 1e-5 (float32) to 0.05 (bfloat16)


@dataclass(eq=False)
class Row:
    """An admitted call: its tokens, and how many of them its caches hold."""

    call: Call
    sampler: Sampler
    tokens: list[int]  # the prompt and all that came after it
    unsent: list[int]  # forced by the grammar before the first sampled token
    layers: Layers | None = None  # its own caches while it is not in a batch
    fed: int = 0  # tokens that the caches hold
    marks: list[int] = field(default_factory=list)  # where checkpoints are due, the next one first
    states: dict[int, States] = field(default_factory=dict)  # the checkpoints taken
    unforced: int = 0  # tokens in a row that were sampled with nothing forced behind them
    quanta: int = 0  # of prefill that it had; see Prefill.next
    quantum_s: float = 0.0
    recoveries: int = 0  # steps that failed with it in them, and no good ones since
    good_steps: int = 0  # in a row, in a batch with others
    prefill_since: float = 0.0  # monotonic seconds

    @property
    def pending(self) -> int:
        """Return how many tokens are still to be fed."""
        return len(self.tokens) - self.fed

    def begin_again(self) -> None:
        """Forget what was computed, after a pass that failed with it."""
        self.recoveries += 1
        self.marks = [*self.states, *self.marks]  # checkpoints that are in no cache yet: due again
        self.layers, self.fed, self.states, self.good_steps = None, 0, {}, 0


class Batch:
    """The decoding rows and their caches. With one row these are the row's own, without padding."""

    def __init__(self, model: nn.Module) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._layers: Layers = []

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, model: nn.Module, rows: Sequence[Row]) -> "Batch":
        """Return a batch of these rows; several keep their own caches as they are, for a while."""
        batch = cls(model)
        batch.rows = list(rows)
        own = [row.layers or [] for row in rows]
        layers = zip(*own, strict=True)
        batch._layers = own[0] if len(own) == 1 else [merged(each) for each in layers]
        return batch

    def take_in(self, other: "Batch") -> None:
        """Take in another batch's rows, whose prompts are prefilled. Nothing is left of it."""
        layers, other._layers = other._layers, []
        for row in other.rows:
            row.layers = None
        if not self.rows:
            self._layers = layers
        for at, joining in enumerate(layers if self.rows else ()):
            if len(self.rows) == 1:
                self._layers[at] = merged([self._layers[at]])
            as_it_is = len(other) > 1 or isinstance(self._layers[at], RowsCache)
            self._layers[at].extend(joining if as_it_is else merged([joining]))
            layers[at] = self._layers[at]  # no second copy of them lives on
            mx.eval(self._layers[at].state)  # layer by layer: a copy of one at a time, not of all
        self.rows += other.rows

    def own(self, at: int) -> Layers:
        """Return what caches hold of a row: to be read at once, as long as no other one is fed."""
        if len(self.rows) == 1:
            return self._layers
        return [
            layer.view(at) if isinstance(layer, RowsCache) else layer.extract(at)
            for layer in self._layers
        ]

    def leave(self, leaving: Sequence[Row]) -> None:
        """Let rows go."""
        if not leaving:
            return
        keep = kept_places([row not in leaving for row in self.rows])
        if len(keep) == 1 and len(self.rows) > 1:
            self._layers = self.extract(keep[0])
        elif not keep:
            self._layers = []
        elif len(keep) < len(self.rows):
            for layer in self._layers:
                layer.filter(keep)
                mx.eval(layer.state)
        self.rows = [self.rows[at] for at in keep]

    def feed(self, chosen: mx.array | None = None) -> mx.array:
        """Feed every row as many tokens as all of them have pending; return logits [rows, V].

        One, as a rule: rows with more wait for those that have to sample. Nothing is padded.
        `chosen` are the rows' next tokens, chosen but not yet known to Python.
        """
        width = 1 if chosen is not None else min(row.pending for row in self.rows)
        tokens = (
            mx.array([row.tokens[row.fed : row.fed + width] for row in self.rows])
            if chosen is None
            else chosen[:, None]
        )
        logits: mx.array = self._model(tokens, cache=self._layers)[:, -1]
        for row in self.rows:
            row.fed += width
        return logits

    def fill(self, counts: Sequence[int]) -> mx.array:
        """Feed every row so many of its tokens, padded at the end; return logits [rows, V].

        They are of the last column: a row that has fewer tokens than others gets none.
        """
        padding = [max(counts) - count for count in counts]
        pairs = zip(self.rows, counts, padding, strict=True)
        tokens = [row.tokens[row.fed : row.fed + n] + [0] * empty for row, n, empty in pairs]
        for layer in self._layers if any(padding) else ():
            layer.prepare(lengths=list(counts), right_padding=padding)
        logits: mx.array = self._model(mx.array(tokens), cache=self._layers)[:, -1]
        for layer in self._layers if any(padding) else ():
            layer.finalize()
        for row, count in zip(self.rows, counts, strict=True):
            row.fed += count
        return logits

    @property
    def nbytes(self) -> int:
        """Return the bytes that its caches hold, unused room included."""
        return sum(int(layer.nbytes) for layer in self._layers)

    def give_back(self) -> None:
        """Give back the room of rows that left, at the price of a copy of the others."""
        for layer in self._layers:
            if isinstance(layer, RowsCache):
                layer.give_back()
                mx.eval(layer.state)  # one at a time

    @property
    def state(self) -> list[Any]:
        """Return what is to be computed of its caches."""
        return [layer.state for layer in self._layers]

    def extract(self, at: int) -> Layers:
        """Return copies of a row's caches, which can go on without the others."""
        found = []
        for layer in self._layers:
            found.append(layer.extract(at))
            mx.eval(found[-1].state)  # one at a time
        return found


def batches_rightly(
    model: nn.Module, make_layers: Callable[[], Layers], tokens: Sequence[int]
) -> bool:
    """Whether rows of different lengths, padded, get the logits together that each gets alone.

    mlx_lm has models that do not: with Gemma 2 the padding's mask meets the wrong dimension, and
    where there are as many rows as key-value heads nothing is raised (ml-explore/mlx-lm#1903). So
    two, four and eight rows are tried.
    """
    try:
        rows = [_prefilled(model, make_layers(), tokens, at) for at in range(LENGTHS_TRIED)]
        alone = [model(mx.array([row.tokens[row.fed :]]), cache=_copy(row))[0, -1] for row in rows]
        tries = ([0, 3], [0, 1, 2, 3], [0, 1, 2, 3] * 2)
        return all(
            _same(model, [rows[n] for n in t], mx.stack([alone[n] for n in t])) for t in tries
        )
    except Exception:  # whatever it raises in a batch: such a model takes one row at a time
        return False


def _prefilled(model: nn.Module, layers: Layers, tokens: Sequence[int], at: int) -> Row:
    """Return a row with some tokens left to feed; the `at`-th has more of all than the others."""
    call = Call(tokens, lambda piece: None)
    prompt = list(tokens[: 2 + at * (len(tokens) - 3) // (LENGTHS_TRIED - 1)])
    model(mx.array([prompt]), cache=layers)
    mx.eval([layer.state for layer in layers])
    return Row(call, Sampler(call), [*prompt, *tokens[-2 - at :]], [], layers, len(prompt))


def _same(model: nn.Module, rows: Sequence[Row], alone: mx.array) -> bool:
    batch = Batch.of(model, [replace(row, layers=_copy(row)) for row in rows])
    batch.fill([row.pending - 1 for row in batch.rows])
    wanted = alone.astype(mx.float32)
    far = mx.abs(batch.feed().astype(mx.float32) - wanted).max(axis=-1) / mx.std(wanted, axis=-1)
    furthest: Any = far.max().item()
    return bool(furthest < FAR)  # also where it is no number


def _copy(row: Row) -> Layers:
    assert row.layers is not None
    return copy.deepcopy(row.layers)


def kept_places(stays: Sequence[bool]) -> list[int]:
    """Return the places of the rows that stay, in their new order: the last ones fill the gaps."""
    keep = [at for at, here in enumerate(stays) if here]
    late = iter([at for at in reversed(keep) if at >= len(keep)])
    return [at if stays[at] else next(late) for at in range(len(keep))]
