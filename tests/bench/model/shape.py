"""How large each phase is: it fits the model, and two cores."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import folders


@dataclass(frozen=True)
class Shape:
    """Sizes of one run. Tokens are the model's own: about a character each with the tiny one."""

    folder: Callable[[Path], Path]  # writes the model
    agents: tuple[int, ...]
    turns: int
    answer_tokens: int  # at most, of one decision; every legal one fits
    stream_tokens: int  # of one stream of free text, for its pace
    batch_tokens: int  # of each stream where eight run at a time
    rounds: int  # of each pace
    cold_tokens: int  # of the long prompt that comes while others decode
    deadline_s: float  # of one phase on one server; what is not answered by then is left out


TINY = Shape(folders.tiny, (1, 5, 20, 50), 8, 64, 200, 60, 3, 8000, 60.0)
SMOLLM2 = Shape(folders.smollm2, (1, 5), 4, 32, 24, 16, 2, 1500, 90.0)
QUICK = Shape(folders.tiny, (1, 3), 2, 64, 40, 16, 1, 1500, 60.0)
SHAPES = {"tiny": TINY, "smollm2": SMOLLM2}
