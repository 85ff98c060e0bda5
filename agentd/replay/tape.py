"""The recorded steps, played in order: they answer for the model, and every new step is compared.

One tape serves one replay. It knows where the session stands by the steps that it has recorded.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from agentd.bus import Bus
from agentd.bus.dead import short_error
from agentd.errors import AgentdError, ModelError, RecordingError
from agentd.events import NewEvent
from agentd.guards import REPEATED
from agentd.llm.decision import Ask, Decision, Message, Usage, with_log
from agentd.loop import Ending
from agentd.process.failure import without_places
from agentd.recordings.recording import ASKED, Recording
from agentd.replay.folders import Places
from agentd.sessions.attempts import Attempts
from agentd.sessions.journal import Journal
from agentd.sessions.session import FORCED, Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind, settled
from agentd.states import SessionState
from agentd.transcript import NO_ROOM, NOTE

CONTEXT_LINES = 2


@dataclass(frozen=True)
class Difference:
    """What differs, at which turn (0: before the first decision), as text on both sides."""

    turn: int
    what: str  # such as "result of ReadFile"
    recorded: str
    now: str
    hint: str = ""

    def lines(self) -> list[str]:
        """Return a unified diff without its header: lines that begin with ` `, `-`, `+` or `@`."""
        diff = difflib.unified_diff(
            self.recorded.splitlines(), self.now.splitlines(), n=CONTEXT_LINES, lineterm=""
        )
        return list(diff)[2:]

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        return dict(vars(self))

    def __str__(self) -> str:
        head = f"turn {self.turn}: {self.what} differs (- recorded, + now)"
        hint = [f"hint: {self.hint}"] if self.hint else []
        return "\n".join([head, *(f"  {line}" for line in self.lines()), *hint])


class Diverged(Exception):
    """The replay left the recording."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


def shown(value: Any) -> str:
    """Return JSON, or a text as it is, in lines that a diff can compare."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = dict(value)
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


BYTES_PER_TOKEN = 3
MONOTONIC_S = 1000.0  # where the replay's monotonic clock begins


class Cut(Exception):
    """Here the recorded session was cut off, and resumed by another attempt."""


class RecordedEnd(ModelError):
    """The recorded session failed for want of a further decision, and so does its replay."""


class Tape:
    """The recording, and how far the replay has come. Also the replay's clock."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.done = 0  # steps recorded so far
        self.attempt = 1
        self.decided = False  # the coming decision's call has come back
        self._held: float | None = 0.0  # active seconds, while no step is under way

    @property
    def turn(self) -> int:
        """Decisions so far."""
        steps = self.recording.steps[: self.done]
        return sum(step.kind is StepKind.DECISION for step in steps)

    @property
    def coming(self) -> Step | None:
        """The recorded step that comes next, in whichever attempt."""
        steps = self.recording.steps
        return steps[self.done] if self.done < len(steps) else None

    def check_cut(self) -> None:
        """Raise Cut where the recorded session's attempt ended."""
        if self.coming is not None and self.coming.attempt > self.attempt:
            raise Cut

    def diverged(self, what: str, recorded: Any, now: Any, hint: str = "") -> Diverged:
        """Return the difference at this turn as what is to be raised."""
        turn = self.turn + (self.coming is not None and self.coming.kind is StepKind.DECISION)
        return Diverged(Difference(turn, what, shown(recorded), shown(now), hint))

    def compare(self, step: Step, of: str) -> None:
        """Hold a new step against the recorded one; `of` is the decision that a result is of.

        Raises:
            Diverged: it is another one.
        """
        expected = self.coming
        # A note is written with the step after it: never, where the call in between failed.
        failed = self.recording.head.session.error is not None
        if expected is None and step.kind is StepKind.NOTE and failed:
            return
        if expected is None:
            raise self.diverged(f"{step.kind.value} beyond the recorded end", "", _text(step))
        if _text(step) != _text(expected):
            after = f" of {of}" if step.kind is StepKind.RESULT else ""
            raise self.diverged(f"{step.kind.value}{after}", _text(expected), _text(step))
        self.done += 1
        self.decided = False

    def own_words(self, kind: StepKind, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what agentd itself says to the model as it was recorded.

        Another agentd may use other words; what it lets the model decide is compared.
        """
        step = self.coming
        if step is None or step.kind is not kind:
            return payload
        note = kind is StepKind.NOTE and step.type == NOTE
        repeat = payload.keys() == step.payload.keys() == {"error"}
        repeat = repeat and str(payload["error"]).endswith(REPEATED)
        return step.payload if note or repeat else payload

    # --- the clock

    def hold(self) -> None:
        """Let no time pass between two attempts."""
        self._held = self.recording.steps[self.done - 1].active_s if self.done else 0.0

    def release(self) -> None:
        """Let time pass as recorded."""
        self._held = None

    def now(self) -> datetime:
        """Return the wall time at which the coming step was recorded."""
        step = self.coming or self.recording.steps[-1]
        return (
            step.ts if self.done or self._held is None else self.recording.head.session.started_at
        )

    def monotonic(self) -> float:
        """Return the session's active seconds then, from a fixed start; before a call, without it.

        So the guards see the deadline pass at the same turn.
        """
        if self._held is not None:
            return MONOTONIC_S + self._held
        step = self.coming or self.recording.steps[-1]
        took = 0.0
        if step is self.coming and step.kind is StepKind.DECISION and not self.decided:
            took = (step.duration_ms or 0.0) / 1000
        before = self.recording.steps[self.done - 1].active_s if self.done else 0.0
        return MONOTONIC_S + max(before, step.active_s - took)


def taped_sessions(bus: Bus, tape: Tape) -> Sessions:
    """Return the sessions of a replay's own bus: every step is compared with the recorded one."""
    return Sessions(bus, jitter=lambda: 0.0, journal=partial(_TapedJournal, tape))


class _TapedJournal(Journal):
    """Compares every step with the recorded one."""

    def __init__(self, tape: Tape, bus: Bus, attempts: Attempts) -> None:
        super().__init__(bus, attempts)
        self._tape = tape

    def record(self, session: Session, step: Step, *, later: bool = False) -> Step:
        """Record a step; see `Journal.record`.

        Raises:
            Diverged: it is not the recorded one.
            Cut: the recorded session was cut off before it.
        """
        self._tape.check_cut()
        words = self._tape.own_words(step.kind, step.payload)
        step = super().record(session, replace(step, payload=words), later=later)
        self._tape.compare(step, self._last_decision(session))
        return step

    @staticmethod
    def _last_decision(session: Session) -> str:
        names = [step.type for step in session.steps if step.kind is StepKind.DECISION]
        return names[-1] if names else "nothing"


def _text(step: Step) -> str:
    """Return what counts of a step."""
    value: dict[str, Any] = {"kind": step.kind.value, "type": step.type}
    value |= {"payload": dict(step.payload), "trusted": step.trusted}
    if step.publish or step.remember:
        value |= settled(step.publish, step.remember)
    return shown(value)


Parse = Callable[[str, frozenset[str]], tuple[str, dict[str, Any], Any]]


class RecordedLLM:
    """An `LLM` that gives the recorded decisions, and has no model to ask.

    `messages` is the prompt without the log as it is now; `parse` reads an answer's text.
    """

    def __init__(
        self, tape: Tape, names: Iterable[str], messages: list[Message], parse: Parse
    ) -> None:
        self.tape = tape
        self._names = frozenset(names)
        self._messages = messages
        self.parse = parse
        self._counts: list[int] = []  # left of those of the coming step
        self._counts_of = -1

    @property
    def names(self) -> frozenset[str]:
        """The classes of the union, as it is now."""
        return self._names

    def window(self) -> int:
        """Return the recorded window."""
        return self.tape.recording.head.model.window

    def fixed_tokens(self) -> int:
        """Return the recorded tokens of the prompt without the log."""
        return self.tape.recording.head.model.fixed_tokens

    def given(self) -> None:
        """Prepare to count a result that is given as it was recorded: cut already."""
        step = self.tape.coming
        if step is not None:
            # What found no room was counted twice, and its substitute last.
            kept = 2 if step.payload == NO_ROOM else 1
            self._counts, self._counts_of = list(step.counts[-kept:]), self.tape.done

    def count(self, text: str) -> int:
        """Return what the model's tokenizer said at this place; an estimate where it said nothing.

        The estimate only serves what has left the recording already.
        """
        if self._counts_of != self.tape.done:
            step = self.tape.coming
            self._counts, self._counts_of = list(step.counts if step else ()), self.tape.done
        if self._counts:
            return self._counts.pop(0)
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

    def prompt(self, log: str) -> list[Message]:
        """Return the messages of a call."""
        return with_log(self._messages, log)

    def decide(self, ask: Ask) -> Decision:
        """Return the recorded decision, if this is the recorded call.

        Raises:
            Diverged: another log or other allowed decisions than recorded.
            Cut, RecordedEnd: as it was recorded.
        """
        tape = self.tape
        tape.check_cut()
        step = tape.coming
        if step is None:
            if tape.recording.head.session.error is not None:
                raise RecordedEnd(tape.recording.head.session.error)
            raise tape.diverged("the end", "no further decision", "asks for one more decision")
        if step.kind is not StepKind.DECISION:
            raise tape.diverged("what comes next", _text(step), "asks for a decision")
        recorded = tape.recording.log(step.seq)
        if ask.log != recorded:
            raise tape.diverged("the log before the decision", recorded, ask.log)
        names = None if ask.allowed is None else sorted(ask.allowed)
        expected = None if step.allowed is None else sorted(step.allowed)
        if names != expected:
            raise tape.diverged("what may be decided", expected or "all", names or "all")
        tape.decided = True
        return self._decision(step, ask.among(self._names))

    def restore(self, raw: str) -> Decision:
        """Return a recorded decision of an earlier attempt."""
        name, args, value = self.parse(raw, self._names)
        return Decision(name, args, value, raw)

    def close(self) -> None:
        """There is no call to end."""

    def _decision(self, step: Step, names: frozenset[str]) -> Decision:
        raw = step.raw or ""
        if step.type not in self._names:
            raise RecordingError(
                f"turn {self.tape.turn + 1} decided {step.type}, which the agent's union has not",
                hint=f"it has {', '.join(sorted(self._names))}; record the session again",
            )
        name, args, value = self.parse(raw, names)
        usage = Usage(
            step.duration_ms or 0.0,
            step.prompt_tokens or 0,
            step.cached_tokens or 0,
            step.completion_tokens or 0,
        )
        return Decision(name, args, value, raw, step.finish_reason, usage)


def check_rest(tape: Tape, ending: Ending, rest: int) -> None:
    """Compare what the `rest`-th closing or parking publishes and remembers.

    Raises:
        Diverged: it is not as recorded.
    """
    result = ending.result
    publish, remember = result.publish, result.remember
    if ending.question is not None:
        asked = {"session": tape.recording.head.session.id, "question": ending.question}
        publish, remember = [NewEvent(ASKED, asked)], {}
    now = settled(publish, remember)
    recorded = tape.recording.settled(rest)
    if recorded is not None and shown(recorded) != shown(now):
        raise tape.diverged("what is published at the end", recorded, now)


def check_ended(tape: Tape, ending: Ending) -> None:
    """Compare how the session came to rest; see `check_rest`."""
    head = tape.recording.head.session
    if tape.coming is not None:
        raise tape.diverged("the end", f"goes on with {tape.coming.type}", "ends here")
    if head.error is not None:
        raise tape.diverged("the end", f"failed: {head.error}", "ends well")
    if head.state is SessionState.ENDED and ending.question is None:
        recorded, own = shown(head.outcome), ending.result.value
        # Older agentds did not say it, or wrote it over an agent's own field of that name.
        now, *older = (shown(o) for o in (ending.outcome, own, {**own, FORCED: ending.forced}))
        if recorded != now and not (ending.forced and recorded in older):
            raise tape.diverged("the outcome", recorded, now)


def check_failed(tape: Tape, error: Exception, places: Places) -> None:
    """Compare a failure with the recorded one, if there is one; see `check_rest`."""
    text = str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}: {error}"
    text = short_error(places.outward(text))
    head = tape.recording.head.session
    recorded = f"failed: {head.error}" if head.error is not None else f"{head.state.value}"
    same = head.error is not None and text == without_places(head.error)
    if not same or tape.coming is not None:
        raise tape.diverged("the end", recorded, f"failed: {text}") from error
