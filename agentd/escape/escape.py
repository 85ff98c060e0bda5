"""Makes all attempts three times: freely, in a sandbox, and in a program started in there."""

import json
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentd.errors import AgentdError
from agentd.escape import inside
from agentd.escape.attempt import Attempt, Made
from agentd.escape.outside import Outside, put_up
from agentd.hands.orders import Orders
from agentd.process.channel import Channel
from agentd.process.child import Child, python
from agentd.process.supervisor_link import error_of
from agentd.process.until import until
from agentd.sandbox import seatbelt
from agentd.sandbox.policy import SandboxPolicy, executables
from agentd.tools.base import Grants

DEADLINE_S = 240.0  # of all attempts of one process
CLOSING_S = 10.0  # for hands to end
ERROR_CHARACTERS = 400
# How a sandbox met an attempt. "open": it succeeded and must not. "untried": it fails also without
# a sandbox, so that it proves nothing here.
Verdict = Literal["refused", "visible", "open", "untried"]
FREE, PLACES = "free", ("hands", "program")


@dataclass(frozen=True)
class Comparison:
    """One attempt: how it ended without a sandbox (`free`), and in each of `PLACES`."""

    attempt: Attempt
    made: Mapping[str, Made]

    @property
    def free(self) -> Made:
        """How it ended without a sandbox."""
        return self.made[FREE]

    def verdict(self, place: str) -> Verdict:
        """Say what its end in this place means."""
        if self.made[place].outcome in ("done", "broken"):
            return "visible" if self.attempt.visible else "open"
        return "refused" if self.free.outcome == "done" else "untried"

    def document(self) -> dict[str, Any]:
        """Return it as what --json prints."""
        ends = {p: {"verdict": self.verdict(p), "why": self.made[p].why} for p in PLACES}
        return {
            "group": self.attempt.group,
            "what": self.attempt.what,
            **ends,
            FREE: vars(self.free),
        }


@dataclass(frozen=True)
class Proof:
    """All attempts. `changed`: what was changed or reached outside by those in the sandbox."""

    tried: tuple[Comparison, ...]
    changed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing got out."""
        return not self.changed and not self.counts()["open"]

    def counts(self) -> Counter[str]:
        """Return how many ends there are of each verdict, in all places."""
        return Counter(tried.verdict(place) for tried in self.tried for place in PLACES)


def prove(orders: Orders, folder: Path, places: Mapping[str, str]) -> Proof:
    """Make all attempts with these orders of an agent's hands, and without.

    "hands": a process of its own that enters their sandbox as they do. "program": one that real
    hands start. `folder`: a private one that they do not open; something is put up in it for a
    while. `places`: agentd's own files and sockets, see `Outside`.

    Raises:
        SandboxUnavailable: there is no whole sandbox here, and the orders want one.
        AgentdError: a process that makes the attempts failed otherwise.
    """
    made: dict[str, list[Made]] = {}
    changed: list[str] = []
    with _proxy(orders) as port:
        if port:
            tcp: dict[str, Any] = {"sockets": "tcp", "ports": (port,)}
            sandbox, programs = replace(orders.sandbox, **tcp), replace(orders.programs, **tcp)
            orders = replace(orders, sandbox=sandbox, programs=programs)
        for place in (FREE, *PLACES):
            made[place], found = _try(place, orders, folder, places)
            changed += [f"{place}: {what}" for what in found if place != FREE]
    ends = zip(*made.values(), strict=True)
    tried = zip(inside.attempts(), ends, strict=True)
    return Proof(
        tuple(Comparison(attempt, dict(zip(made, each, strict=True))) for attempt, each in tried),
        tuple(changed),
    )


@contextmanager
def _proxy(orders: Orders) -> Iterator[int]:
    """Give the port of what stands for the proxy of an agent's programs; 0 where they have none."""
    if not (orders.permissions.net and orders.permissions.run):
        yield 0
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def _try(
    place: str, orders: Orders, folder: Path, places: Mapping[str, str]
) -> tuple[list[Made], list[str]]:
    """Make all attempts in one place; return their ends, and what they changed outside."""
    with tempfile.TemporaryDirectory(prefix="prove-", dir=folder) as top:
        there, own = Path(top, "outside"), Path(top, "own")
        there.mkdir()
        own.mkdir()
        with put_up(there, own, places, orders.programs) as watched:
            return _make(place, orders, own, watched.outside), watched.changed()


def _make(place: str, orders: Orders, own: Path, outside: Outside) -> list[Made]:
    """Make all attempts in one place, by a process that works in the folder `own`."""
    argv = inside.argv(own)
    sandbox, programs = _with(orders.sandbox, own), _with(orders.programs, own)
    given = {
        "policy": sandbox.document() if place == "hands" else None,
        "require": orders.require,
        "outside": outside.document(),
    }
    (own / inside.GIVEN).write_text(json.dumps(given))
    if place == "program":
        run = Grants(**{**vars(orders.permissions), "run": (*orders.permissions.run, argv[0])})
        more: dict[str, Any] = {"permissions": run, "scratch": str(own)}
        said = _by_hands(replace(orders, sandbox=sandbox, programs=programs, **more), argv, own)
    else:
        done = subprocess.run(
            seatbelt.wrapped(argv, sandbox) if place == "hands" else argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_S,
            cwd=own,
        )
        said = done.stdout.decode("utf-8", "replace")
    try:
        return [Made(**end) for end in json.loads((own / inside.ANSWER).read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        why = said[-ERROR_CHARACTERS:]
        raise AgentdError(f"the process that tries to get out failed: {why}") from error


def _with(policy: SandboxPolicy, own: Path) -> SandboxPolicy:
    """Let a process work in a folder, and run the program that tries: Python."""
    return replace(
        policy,
        read=(*policy.read, str(own)),
        write=(*policy.write, str(own)),
        run=(*policy.run, *executables(inside.argv(own)[0], "")),
    )


def _by_hands(orders: Orders, argv: Sequence[str], locks: Path) -> str:
    """Have real hands run a program; return what it, or they, said."""
    own = seatbelt.wrapped(python("agentd.hands"), orders.sandbox)
    child = Child.spawn("hands", own, locks, control=True)
    try:
        assert child.control is not None
        channel = Channel(child.control)
        channel.send(orders.document())
        if isinstance(problem := channel.receive(DEADLINE_S)[0].get("error"), dict):
            raise error_of(problem)
        args = {"program": argv[0], "args": list(argv[1:])}
        call = {"id": 1, "call": "RunCommand", "args": args, "deadline_s": DEADLINE_S}
        channel.send(call)
        return str(channel.receive(DEADLINE_S + CLOSING_S)[0])
    finally:
        child.kill()
        for _ in until(CLOSING_S, 0.01):
            if child.poll() is not None:
                child.close()
                break
