"""What a tool's handler is given, and what they have in common."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentd.clock import Clock, SystemClock
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.events import Result
from agentd.process.stop import Cancel
from agentd.terminal import cut
from agentd.tools.closed import Closed, KnownClosed
from agentd.tools.session_view import SessionView

if TYPE_CHECKING:
    from agentd.net.exchange import Stream

TEXT_CHARACTERS = 16_000  # of one result's text; the loop cuts further, by tokens
DEADLINE_S = 30.0  # of one call
MARKER = re.compile(rb"\b(?:TODO|FIXME|XXX)\b")  # in a line of a file: somebody left work
BYTE = re.compile(r"\\x([89a-f][0-9a-f])")  # how `shown` writes a byte that is not UTF-8


@dataclass(frozen=True)
class Grants:
    """What an agent's [permissions] list, and the folder that is its own without being listed."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    net: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    own: str = ""  # empty: it has none here

    @property
    def readable(self) -> tuple[str, ...]:
        """What tools may read."""
        return (*self.read, self.own) if self.own else self.read

    def allows(self, kind: str) -> bool:
        """Whether there is anything that a tool of this permission could touch."""
        return bool(getattr(self, kind)) or (bool(self.own) and kind in ("read", "write"))


@dataclass(frozen=True)
class Output:
    """What a program came to. `code` is negative for a signal; `dropped` counts bytes not kept."""

    code: int
    data: bytes
    dropped: int


def nowhere(place: str, name: str, args: Mapping[str, Any]) -> Result:
    """Stand for `ToolCall.inner` outside of the worker: who carries out a part has no others."""
    raise ToolError(f"{name} is called by the worker alone")


def no_password(account: str) -> str:
    """Stand for `ToolCall.password` outside of the worker."""
    raise ToolError(f"the password of {account} is the worker's alone")


@dataclass
class ToolCall:
    """One call's surroundings: what it may touch, and how long it may take."""

    permissions: Grants = field(default_factory=Grants)
    # What no tool opens, whatever the permissions say. The bus is in there: closing a second
    # descriptor of a SQLite file drops this process's POSIX locks on it.
    closed: Closed | KnownClosed = field(default_factory=Closed)
    deadline_s: float = DEADLINE_S
    # What opens a connection for a URL in the network's place, as a replay does.
    connect: "Callable[[str], AbstractContextManager[Stream]] | None" = None
    session: SessionView = field(default_factory=SessionView)  # only in the worker
    # inner(place, name, args): carries out a part of this call in hands or fetcher, within what is
    # left of its time. Only in the worker. Raises ToolError, Stopped.
    inner: "Callable[[str, str, Mapping[str, Any]], Result]" = nowhere
    # Its mail: URLs by account, and what gives an account's password. Only in the worker.
    accounts: Mapping[str, str] = field(default_factory=dict)
    password: Callable[[str], str] = no_password
    # What answers for programs in their place, by their arguments, as in a test.
    programs: "Callable[[Sequence[str]], Output] | None" = None
    cancel: Cancel = field(default_factory=Cancel)
    environ: Mapping[str, str] = field(default_factory=dict)  # of programs, besides what all have
    # What a program does before it is executed, such as to enter its sandbox.
    before: Callable[[], None] | None = None
    left_running: bool = False  # a program of this call left others
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


def answered(
    name: str, run: Callable[..., Result], call: ToolCall, args: Mapping[str, Any]
) -> Result:
    """Return what a handler comes to.

    Raises:
        ToolError, Stopped: it failed. What lies outside may be anything, and change meanwhile.
    """
    call.check()
    try:
        return run(call, **args)
    except (OSError, UnicodeError, RuntimeError) as error:
        raise ToolError(f"{name} failed: {error or type(error).__name__}") from error


def reply(carry_out: Callable[[], Result]) -> dict[str, Any]:
    """Return what a call comes to as `agentd.tools.remote` reads it, without its number."""
    try:
        result = carry_out()
    except PermissionRefused as error:
        return failed("refused", error.what)
    except ToolError as error:
        return failed("tool", error.what)
    except Stopped as error:
        return failed("stopped", error.what)
    return {"value": result.value, "trusted": result.trusted, "effect": result.effect}


def failed(kind: str, what: str) -> dict[str, Any]:
    """Return the reply of a call that failed."""
    return {"error": {"kind": kind, "what": what}}


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
    return cut(text, limit)
