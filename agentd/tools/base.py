"""What a tool is, and what it is given."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from agentd.agent import Result
from agentd.clock import Clock, SystemClock
from agentd.config.agent import Permissions
from agentd.errors import Stopped, ToolError
from agentd.process.stop import Cancel
from agentd.tools.closed import Closed

if TYPE_CHECKING:
    from agentd.net.exchange import Stream

TEXT_CHARACTERS = 16_000  # of one result's text; the loop cuts further, by tokens
DEADLINE_S = 30.0  # of one call
BYTE = re.compile(r"\\x([89a-f][0-9a-f])")  # how `shown` writes a byte that is not UTF-8


class Args(BaseModel):
    """Base of the tools' arguments: unknown keys are errors. The mask enforces the bounds too."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Output:
    """What a program came to. `code` is negative for a signal; `dropped` counts bytes not kept."""

    code: int
    data: bytes
    dropped: int


@dataclass
class ToolCall:
    """One call's surroundings: what it may touch, and how long it may take."""

    permissions: Permissions = field(default_factory=Permissions)
    # What no tool opens, whatever the permissions say. The bus is in there: closing a second
    # descriptor of a SQLite file drops this process's POSIX locks on it.
    closed: Closed = field(default_factory=Closed)
    deadline_s: float = DEADLINE_S
    # What opens a connection for a URL in the network's place, as a replay does.
    connect: "Callable[[str], AbstractContextManager[Stream]] | None" = None
    # What answers for programs in their place, by their arguments, as in a test.
    programs: "Callable[[Sequence[str]], Output] | None" = None
    cancel: Cancel = field(default_factory=Cancel)
    clock: Clock = field(default_factory=SystemClock)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline_s - (self.clock.monotonic() - self._started))

    def check(self) -> None:
        """Raise `Stopped` after a stop, `ToolError` past the deadline."""
        if self.cancel.stopped:
            raise Stopped("the tool was stopped")
        if self.left_s <= 0:
            raise ToolError(f"took longer than {self.deadline_s:g} s and was stopped")


@dataclass(frozen=True)
class Tool:
    """A typed decision's handler that any agent may use, by permission."""

    name: str  # the BAML class
    args: type[BaseModel]  # its bounds narrow the mask as well
    permission: Literal["read", "write", "net", "run"] | None
    idempotent: bool  # may run again after it was cut off in the middle
    run: Callable[[Any, ToolCall], Result]
    # What it does: nothing, what a person can undo, or what nobody can take back (sends, deletes).
    effect: Literal["none", "change", "send"] = "send"
    untrusted: bool = True  # others may have written what it gives


def unshown(text: str) -> str:
    """Return the file name that `shown` may have written as `text`."""

    def byte(match: re.Match[str]) -> str:
        return bytes([int(match[1], 16)]).decode("utf-8", "surrogateescape")

    return BYTE.sub(byte, text)


def clean_line(text: str, limit: int) -> str:
    """Return what others wrote as one line of at most `limit` characters, cut visibly."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def cut_text(text: str, limit: int = TEXT_CHARACTERS) -> str:
    """Return at most `limit` characters of `text`, with a visible marker where it was cut."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}...[cut {len(text) - limit} characters]"
