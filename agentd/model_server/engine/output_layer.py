"""The output layer computes what somebody looks at: as a rule the last position of a pass.

It is a fifth of a small model's work, and the most of its memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
from mlx import nn


class OutputPositions:
    """Has a model compute logits for the last position of a pass only, or for every one."""

    def __init__(self, model: nn.Module) -> None:
        self._every = False
        inner = getattr(model, "language_model", model)
        embedding = getattr(getattr(inner, "model", None), "embed_tokens", None)
        if "lm_head" in inner:
            inner.lm_head = _OutputLayer(inner.lm_head, self)
        elif embedding is not None:  # a tied layer is the embedding's `as_linear`
            whole = embedding.as_linear
            object.__setattr__(embedding, "as_linear", lambda hidden: whole(self.of(hidden)))

    @contextmanager
    def every(self) -> Iterator[None]:
        """Have all of them computed in the passes that are written in this context."""
        self._every = True
        try:
            yield
        finally:
            self._every = False

    def of(self, hidden: mx.array) -> mx.array:
        """Return the positions that are computed."""
        return hidden if self._every else hidden[:, -1:]


class _OutputLayer(nn.Module):  # type: ignore[misc]
    def __init__(self, head: nn.Module, positions: OutputPositions) -> None:
        super().__init__()
        self.head = head
        self._positions = positions

    def __call__(self, hidden: mx.array) -> mx.array:
        logits: mx.array = self.head(self._positions.of(hidden))
        return logits
