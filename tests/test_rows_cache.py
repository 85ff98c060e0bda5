"""The cache of several rows: whatever joins, leaves and is padded, each row holds its own."""

import random
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache

from agentd.model_server.engine import rows_cache
from agentd.model_server.engine.batch import kept_places
from agentd.model_server.engine.rows_cache import RowsCache, merged

HEADS, WIDTH = 2, 4


def filled(numbers: list[float]) -> KVCache:
    """Return one row's cache that holds these numbers; values are their negatives."""
    row, (keys, values) = KVCache(), columns([numbers])
    row.update_and_fetch(keys, values)
    return row


def columns(rows: list[list[float]]) -> tuple[mx.array, mx.array]:
    """Return keys and values of the same number of columns for each row."""
    keys = mx.broadcast_to(
        mx.array(rows)[:, None, :, None], (len(rows), HEADS, len(rows[0]), WIDTH)
    )
    return keys, -keys


def held(row: KVCache) -> list[float]:
    """Return what `filled` was given."""
    keys, values = row.keys_and_values()
    assert mx.array_equal(keys, -values)
    assert (mx.max(keys, axis=(1, 3)) == mx.min(keys, axis=(1, 3))).all()
    numbers: list[float] = keys[0, 0, :, 0].tolist()
    return numbers


def test_rows_hold_their_own_whatever_joins_and_leaves() -> None:
    """Random joins, leaves, steps and padded passes, with lengths around the steps of growth."""
    choose = random.Random(11)
    numbers = iter(range(1, 10**6))

    def some(count: int) -> list[float]:
        return [float(next(numbers)) for _ in range(count)]

    wanted = [some(3), some(300)]
    cache = RowsCache([filled(row) for row in wanted])
    for _ in range(150):
        move = choose.randrange(4)
        if move == 0 and len(wanted) < 11:
            new = [some(choose.choice([1, 40, 255, 256, 700])) for _ in range(choose.randrange(3))]
            if len(new) > 1:  # as a batch of its own
                cache.extend(RowsCache([filled(row) for row in new]))
            elif new:
                cache.extend(filled(new[0]))
            wanted += new
        elif move == 1 and len(wanted) > 2:
            stays = [choose.random() < 0.7 for _ in wanted]
            if any(stays):
                keep = kept_places(stays)
                cache.filter(keep)
                wanted = [wanted[at] for at in keep]
        elif move == 2:
            counts = [choose.randrange(1, 9) for _ in wanted]
            padding = [max(counts) - count for count in counts]
            fed = [some(count) for count in counts]
            cache.prepare(lengths=counts, right_padding=padding)
            cache.update_and_fetch(
                *columns([row + [0.0] * n for row, n in zip(fed, padding, strict=True)])
            )
            cache.finalize()
            wanted = [row + new for row, new in zip(wanted, fed, strict=True)]
        else:
            fed = [some(1) for _ in wanted]
            cache.update_and_fetch(*columns(fed))
            wanted = [row + new for row, new in zip(wanted, fed, strict=True)]
        assert [held(cache.extract(at)) for at in range(len(wanted))] == wanted
        assert [held(cache.view(at)) for at in range(len(wanted))] == wanted
        assert cache.offset.tolist() == cache.lengths == [len(row) for row in wanted]
        room = cache.keys.shape[0] * cache.keys.shape[2]
        assert room <= 2 * (len(wanted) + 3) * (cache.size() + 256), "room is given back"


def test_a_large_batch_has_no_room_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admission counts rows times the longest: places for more rows are for small batches only."""
    rows = [filled([1.0] * 300), filled([2.0])]
    assert RowsCache(rows).keys.shape == (4, HEADS, 512, WIDTH)
    monkeypatch.setattr(rows_cache, "SPARE_BYTES", 4 * HEADS * 512 * WIDTH * 4 - 1)
    assert RowsCache(rows).keys.shape == (2, HEADS, 512, WIDTH)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("window", [None, 4])
def test_a_token_looks_at_what_it_looks_at_alone(count: int, window: int | None) -> None:
    """The mask opens the same tokens as the one of mlx_lm's batch, wherever these stand."""
    rows = [filled([float(n) for n in range(1, length + 1)]) for length in (5, 2, 9)]
    ours, theirs = RowsCache(rows), BatchKVCache.merge(rows)
    new = columns([[100.0 + n for n in range(count)]] * 3)

    def seen(cache: Any) -> list[list[list[float]]]:
        mask = cache.make_mask(count, window_size=window)
        keys = cache.update_and_fetch(*new)[0][:, 0, :, 0]
        return [
            [[key for key, here in zip(row, line, strict=True) if here] for line in lines]
            for row, lines in zip(keys.tolist(), mask[:, 0].tolist(), strict=True)
        ]

    assert seen(ours) == seen(theirs)


def test_a_row_without_numbers_leaves_nothing_behind() -> None:
    """What overflowed in one answer is no part of the next one that gets its place."""
    cache = RowsCache([filled([1.0]), filled([float("nan")] * 90), filled([2.0] * 100)])
    cache.filter(kept_places([True, False, True]))
    cache.filter(kept_places([True, False]))
    cache.extend(filled([3.0]))
    keys, values = cache.update_and_fetch(*columns([[4.0], [5.0]]))
    assert not mx.isnan(keys).any() and not mx.isnan(cache.keys).any()
    assert not mx.isnan(values).any()


def test_rows_that_stay_are_not_moved() -> None:
    """Where rows leave the last ones take their places; a whole batch is never copied for one."""
    assert kept_places([True, False, True, True, False, True]) == [0, 5, 2, 3]
    assert kept_places([False, True, True]) == [2, 1]
    assert kept_places([True, True, False]) == [0, 1]
    assert kept_places([False, False]) == []


def test_layers_that_are_no_plain_keys_and_values_stay_those_of_mlx_lm() -> None:
    """Windows and recurrent states have batches of their own there."""
    assert isinstance(merged([filled([1.0]), filled([2.0])]), RowsCache)

    class Window(KVCache):  # type: ignore[misc]
        pass

    assert isinstance(merged([Window(), Window()]), BatchKVCache)
