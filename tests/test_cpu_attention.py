"""Attention on a CPU gives what MLX's own function gives."""

from typing import Any

import mlx.core as mx
import pytest

from agentd.model_server.engine import cpu_attention

NEAR = 1e-5


@pytest.mark.parametrize(("heads", "shared"), [(4, 1), (9, 3), (4, 4)])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    "kind",
    ["none", "causal", "rows", "square", "blind", "each head", "added", "sinks", "half"],
)
def test_the_same_as_the_own_one(heads: int, shared: int, count: int, kind: str) -> None:
    """With each mask that models give it, and with what it leaves to MLX."""
    mx.random.seed(7)
    rows, length, width = 3, 23, 8
    queries = mx.random.normal((rows, heads, count, width))
    keys = mx.random.normal((rows, shared, length, width))
    values = mx.random.normal((rows, shared, length, width))
    ends = mx.array([length - count, 9, 4])
    square = mx.arange(length - count, length)[:, None] >= mx.arange(length)
    kinds: dict[str, dict[str, Any]] = {
        "none": {},
        "causal": {"mask": "causal"},
        "rows": {"mask": mx.arange(length) <= (ends[:, None] + mx.arange(count))[:, None, :, None]},
        "square": {"mask": square},
        "blind": {"mask": square & (mx.arange(count) > 0)[:, None]},  # the first one sees nothing
        "each head": {"mask": square & (mx.arange(heads) >= 0)[:, None, None]},
        "added": {"mask": mx.where(square, 0.0, -1e9)},
        "sinks": {"sinks": mx.random.normal((heads,))},
        "half": {"mask": "causal"},
    }
    more = kinds[kind]
    if kind == "half":
        queries, keys, values = (part.astype(mx.float16) for part in (queries, keys, values))
    wanted = cpu_attention._own(queries, keys, values, scale=0.3, **more)
    found = cpu_attention.attention(queries, keys, values, scale=0.3, **more)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert mx.allclose(found, wanted, atol=NEAR).item()


def test_what_a_mask_forbids_is_of_no_weight() -> None:
    """Not a little: what lies behind a row's end may be anything that is a number."""
    queries, keys = mx.ones((1, 2, 1, 4)), mx.ones((1, 1, 6, 4))
    values = mx.where(mx.arange(6)[:, None] < 3, 1.0, 1e30) * mx.ones((1, 1, 6, 4))
    found = cpu_attention.attention(queries, keys, values, scale=1.0, mask=mx.arange(6)[None] < 3)
    assert found.tolist() == [[[[1.0] * 4]] * 2]
