"""Keys and values of several rows in one layer, each row from its own beginning.

In mlx_lm's BatchKVCache all rows end in one column, so that a row that joins or leaves has all the
others copied, once or twice. That was 45 % of the engine's processor time with 20 agents. Here all
rows begin in the first column: a row that joins is copied, and no other; where one leaves, another
one takes its place. For mlx_lm's models it is what BatchKVCache is.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache

# Places for rows are made so many at a time, where all of them take no more than so many bytes.
# Admission counts them.
ROWS_STEP, SPARE_BYTES = 4, 8 * 1024 * 1024
WASTE_MAX = 2  # times as much room as is needed, before it is given back by itself


class RowsCache:
    """One layer's cache of several rows; `others` are caches whose rows it begins with.

    Behind a row's end stand zeros or what its own padding left: no other row's values, which would
    spoil it if they were no numbers.
    """

    def __init__(self, others: Sequence[Any]) -> None:
        self.keys: Any = None
        self.values: Any = None
        self.lengths: list[int] = []
        self.offset = mx.array(self.lengths)  # the lengths, for models
        self._padding: Sequence[int] = ()
        self._take_in(others)

    def extend(self, other: Any) -> None:
        """Take in copies of another cache's rows behind the own ones. It may be a KVCache."""
        self._take_in([other])

    def filter(self, keep: Sequence[int]) -> None:
        """Keep these rows, in this order. A row that stays in its place is not copied."""
        rows = len(self.lengths)
        for each in (self.keys, self.values):
            moved = {
                at: mx.contiguous(each[source]) for at, source in enumerate(keep) if at != source
            }
            mx.eval(moved)  # first: while one is to be read, writing would copy all of them
            for at, row in moved.items():
                each[at] = row
            each[len(keep) : rows] = mx.zeros(1, each.dtype)
        self._set([self.lengths[at] for at in keep])
        rows, columns = self._room(len(keep), max(self.lengths))
        if self.keys.shape[0] * self.keys.shape[2] > WASTE_MAX * rows * columns:
            self._move(rows, columns)

    def give_back(self) -> None:
        """Give back the room of rows that left, and places to spare."""
        self._move(len(self.lengths), room_for(max(self.lengths)))

    def extract(self, at: int) -> KVCache:
        """Return a copy of a row, as it is alone, with room to go on."""
        row = self.view(at)
        columns = room_for(row.offset + 1)
        row.keys, row.values = (
            mx.contiguous(part[:, :, :columns]) for part in (row.keys, row.values)
        )
        return row

    def view(self, at: int) -> KVCache:
        """Return a row, not to be written to, and to be let go of before others are."""
        row = KVCache()
        row.offset = self.lengths[at]
        row.keys, row.values = self.keys[at : at + 1], self.values[at : at + 1]
        return row

    def prepare(self, *, lengths: Sequence[int], right_padding: Sequence[int]) -> None:
        """Say of how many columns of what comes next each row has no tokens, at their ends."""
        self._padding = right_padding

    def finalize(self) -> None:
        """Forget these columns."""
        self._set([n - empty for n, empty in zip(self.lengths, self._padding, strict=True)])
        self._padding = ()

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add columns behind each row's end; return all of the rows up to the longest one's end."""
        rows, count = len(self.lengths), keys.shape[2]
        longest = max(self.lengths) + count
        self._make_room(rows, longest, keys, values)
        at = self.offset[:, None] + mx.arange(count)
        place = mx.arange(rows)[:, None]
        self.keys[place, :, at] = keys.transpose(0, 2, 1, 3)
        self.values[place, :, at] = values.transpose(0, 2, 1, 3)
        self.lengths = [length + count for length in self.lengths]
        self.offset = self.offset + count
        return self.keys[:rows, :, :longest], self.values[:rows, :, :longest]

    def make_mask(
        self, count: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """Return what each of the next tokens looks at: its own row, up to itself."""
        own = (self.offset[:, None] + mx.arange(count))[:, None, :, None]
        columns = mx.arange(max(self.lengths) + count)
        mask = columns <= own
        return mask if window_size is None else mask & (columns > own - window_size)

    @property
    def state(self) -> tuple[mx.array, mx.array, mx.array]:
        """Return what is to be computed."""
        return self.keys, self.values, self.offset

    @property
    def nbytes(self) -> int:
        """Return the bytes that it holds, unused room included."""
        return int(self.keys.nbytes + self.values.nbytes)

    def size(self) -> int:
        """Return the longest row's length."""
        return max(self.lengths)

    def empty(self) -> bool:
        """Return False: its rows hold something."""
        return False

    def _take_in(self, others: Sequence[Any]) -> None:
        rows = []
        for other in others:
            own = other.lengths if isinstance(other, RowsCache) else [other.offset]
            rows += [(other, at, length) for at, length in enumerate(own)]
        first, lengths = len(self.lengths), [*self.lengths, *(length for _, _, length in rows)]
        if known := next((other for other, _, length in rows if length), None):
            self._make_room(len(lengths), max(lengths), known.keys, known.values)
        for place, (other, at, length) in enumerate(rows, first):
            if length:
                self.keys[place, :, :length] = other.keys[at, :, :length]
                self.values[place, :, :length] = other.values[at, :, :length]
        self._set(lengths)

    def _set(self, lengths: list[int]) -> None:
        self.lengths, self.offset = lengths, mx.array(lengths)

    def _make_room(self, rows: int, columns: int, keys: mx.array, values: mx.array) -> None:
        """Move to larger arrays where these are too small; `keys` and `values` are alike."""
        if self.keys is None:
            self.keys, self.values = keys[:0, :, :0], values[:0, :, :0]
        if rows > self.keys.shape[0] or columns > self.keys.shape[2]:
            self._move(*self._room(rows, columns))

    def _room(self, rows: int, columns: int) -> tuple[int, int]:
        columns = room_for(columns)
        row_bytes = self.keys.shape[1] * columns * self.keys.shape[3] * self.keys.dtype.size
        return places_for(rows, row_bytes), columns

    def _move(self, rows: int, columns: int) -> None:
        self.keys, self.values = (_moved(part, rows, columns) for part in (self.keys, self.values))


def room_for(columns: int) -> int:
    """Return how many columns are made for so many: MLX reuses what is of the same size."""
    step: int = KVCache.step
    return -(-columns // step) * step


def places_for(rows: int, row_bytes: float) -> int:
    """Return how many places are made for so many rows; `row_bytes` of keys, or of values."""
    places = -(-rows // ROWS_STEP) * ROWS_STEP
    return places if places * row_bytes <= SPARE_BYTES else rows


def merged(caches: Sequence[Any]) -> Any:
    """Return one cache of several rows' own ones, of the same layer."""
    kind = type(caches[0])
    return RowsCache(caches) if kind is KVCache else kind.merge(caches)


def _moved(part: mx.array, rows: int, columns: int) -> mx.array:
    wide = mx.zeros((rows, part.shape[1], columns, part.shape[3]), part.dtype)
    kept = part[:rows, :, :columns]
    wide[: kept.shape[0], :, : kept.shape[2]] = kept
    return wide
