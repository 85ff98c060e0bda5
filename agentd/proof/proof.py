"""Makes all attempts three times: freely, in a sandbox, and in a program started in there."""

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentd.errors import AgentdError
from agentd.proof import inside
from agentd.proof.attempt import Attempt, Made
from agentd.proof.outside import put_up
from agentd.sandbox import seatbelt
from agentd.sandbox.policy import SandboxPolicy, executables

DEADLINE_S = 240.0  # of all attempts of one process
ERROR_CHARACTERS = 400
# How a sandbox met an attempt. "open": it succeeded and must not. "untried": it fails also without
# a sandbox, so that it proves nothing here.
Verdict = Literal["refused", "visible", "open", "untried"]
FREE, PLACES = "free", ("hands", "program")


@dataclass(frozen=True)
class Tried:
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

    tried: tuple[Tried, ...]
    changed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing got out."""
        return not self.changed and not self.counts()["open"]

    def counts(self) -> Counter[str]:
        """Return how many ends there are of each verdict, in all places."""
        return Counter(tried.verdict(place) for tried in self.tried for place in PLACES)


def prove(
    policy: SandboxPolicy, folder: Path, places: Mapping[str, str], *, require: bool = True
) -> Proof:
    """Make all attempts with this policy, and without.

    `folder`: a private one that the policy does not open; something is put up in it for a while.
    `places`: agentd's own files and sockets, see `Outside`. `require`: see `enter`.

    Raises:
        SandboxUnavailable: there is no whole sandbox here.
        AgentdError: a process that makes the attempts failed otherwise.
    """
    made: dict[str, list[Made]] = {}
    changed: list[str] = []
    for place in (FREE, *PLACES):
        with tempfile.TemporaryDirectory(prefix="prove-", dir=folder) as top:
            there, own = Path(top, "outside"), Path(top, "own")
            there.mkdir()
            own.mkdir()
            with put_up(there, own, places, policy) as watched:
                given = {
                    "policy": None,
                    "nested": place == "program",
                    "require": require,
                    "outside": watched.outside.document(),
                }
                made[place] = _make(given, None if place == FREE else _with(policy, own), own)
                changed += [f"{place}: {what}" for what in watched.changed() if place != FREE]
    ends = zip(*made.values(), strict=True)
    tried = zip(inside.attempts(), ends, strict=True)
    return Proof(
        tuple(Tried(attempt, dict(zip(made, each, strict=True))) for attempt, each in tried),
        tuple(changed),
    )


def _with(policy: SandboxPolicy, own: Path) -> SandboxPolicy:
    """Let the policy's process work in a folder, and run the program that tries: Python."""
    return replace(
        policy,
        read=(*policy.read, str(own)),
        write=(*policy.write, str(own)),
        run=(*policy.run, *executables(inside.argv()[0], "")),
    )


def _make(given: dict[str, Any], policy: SandboxPolicy | None, own: Path) -> list[Made]:
    """Make all attempts in a process of their own."""
    argv = inside.argv()
    if policy is not None:
        given = {**given, "policy": policy.document()}
        argv = seatbelt.wrapped(argv, policy)
    text = json.dumps(given)
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, timeout=DEADLINE_S, cwd=own
    )
    try:
        return [Made(**end) for end in json.loads(done.stdout)]
    except (ValueError, TypeError) as error:
        why = (done.stdout + done.stderr)[-ERROR_CHARACTERS:] or f"exit {done.returncode}"
        raise AgentdError(f"the process that tries to get out failed: {why}") from error
