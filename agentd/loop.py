"""The loop: decide, Done?, dispatch, append, again. One session from its opening to its end.

What surrounds it lives elsewhere: limits in guards.py, the log and its budget in context.py, what
survives a crash in sessions/. A resumed session comes through here as well: its recorded steps
fill the log first, a recorded decision is not asked again, a finished tool is not run again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from agentd.agent import Agent, Result
from agentd.clock import Clock
from agentd.config.wording import first
from agentd.context import Context, LogEvent
from agentd.errors import (
    EventRefused,
    ModelError,
    ModelUnavailable,
    PermissionRefused,
    SessionFailed,
    Stopped,
    ToolError,
)
from agentd.events import NewEvent
from agentd.guards import DONE, Guards, Turn, forced
from agentd.llm.decision import LLM, Decision
from agentd.logs.logger import Logger
from agentd.sessions.journal import Journal
from agentd.sessions.session import FORCED, Session
from agentd.sessions.steps import Step, StepKind

NOTE = "note"  # the event in which agentd itself speaks to the model
NO_ROOM = {"cut": "no room left in the context"}
RESERVE_TOKENS = 128  # kept free for a result without room (NO_ROOM) and the last turn's note


@dataclass(frozen=True)
class Ending:
    """How a run of the loop ended: with Done's result, or parked on a question to a person."""

    result: Result
    question: str | None = None
    forced: str | None = None  # why Done was the only decision left

    @property
    def outcome(self) -> dict[str, Any]:
        """What is kept of Done's result."""
        return {**self.result.value, **({FORCED: self.forced} if self.forced else {})}


class Loop:
    """One run of one session.

    `idempotent` names the decisions whose handlers may run again after they were cut off; `beat`
    promises the supervisor progress within so many seconds.
    """

    def __init__(
        self,
        session: Session,
        agent: Agent[Any],
        llm: LLM,
        journal: Journal,
        *,
        idempotent: frozenset[str],
        call_deadline_s: float,
        clock: Clock,
        log: Logger,
        beat: Callable[[float], None],
    ) -> None:
        self.session, self.agent, self.llm, self.journal = session, agent, llm, journal
        self.limits = session.limits
        self.idempotent = idempotent
        self.call_deadline_s = call_deadline_s
        self.clock, self.log, self.beat = clock, log, beat
        self.guards = Guards(self.limits, llm.names, clock, session.spent_s)
        self._tokens: Callable[[str], int] = llm.count
        self.context = Context(
            self._count,
            fixed=llm.fixed_tokens(),
            window=llm.window(),
            share=self.limits.context_share,
            reserve=RESERVE_TOKENS,
        )

    def run(self) -> Ending:
        """Run the session to its end.

        Raises:
            EventRefused: the agent cannot read its event.
            SessionFailed, ModelError: it failed; it may be tried again as a new session.
            ModelUnavailable, Stopped: it is cut off here, and resumes where it was.
        """
        decision = self.open()
        while True:
            decision = decision or self.decide()
            if decision.name == DONE:
                return Ending(self.finish(decision), forced=self.agent.forced)
            result = self.dispatch(decision)
            self.append(decision, result)
            if result.ask is not None:
                return Ending(result, result.ask)
            decision = None

    def open(self) -> Decision | None:
        """Fill the log, and return a recorded decision that is still to be carried out."""
        event = self.session.event
        # First what was cut off in the middle is told: the agent has to know of it, too.
        pending = self._resume() if self.session.steps else None
        self.agent.begin(event, self._results())
        if self.session.steps:
            return pending
        model = self.agent.accepts.get(event.event_type)
        if model is not None:
            try:
                model.model_validate(event.payload)
            except ValidationError as error:
                raise EventRefused(_first(error), where=f"event {event.id}") from error
        opening = self.agent.opening(event)
        log_event, tokens = self._fit(event.event_type, opening)
        step = self.journal.record_opening(
            self.session, event.event_type, log_event.payload, trusted=opening.trusted
        )
        self._show(step, tokens)
        return None

    def decide(self) -> Decision:
        """Ask until the model comes to a decision that may be carried out; record every one."""
        while True:
            turn = self.guards.next_turn()
            if turn.note is not None:
                self._note({"text": turn.note}, turn.last)
            self.beat(self.call_deadline_s)
            allowed = self._allowed(turn)
            decision = self.llm.decide(
                self.context.text,
                allowed=allowed,
                max_tokens=self.limits.decision_tokens,
                deadline_s=self.call_deadline_s,
                priority=self.session.priority,
                session=self.session.id,
                progress=lambda: self.beat(self.call_deadline_s),
            )
            self._log_turn(turn.number, decision)
            if allowed is not None and decision.name not in allowed:
                raise SessionFailed(f"decided {decision.name}, which this turn did not allow")
            refused = self._refused(decision)
            shown = None if refused is None else self._shown(decision, refused)
            # With its refusal in one transaction: a refused decision must not look unfinished.
            with self.journal.transaction():
                step = Step(
                    StepKind.DECISION,
                    decision.name,
                    decision.args,
                    idempotent=decision.name in (DONE, *self.idempotent),
                    prompt_tokens=decision.prompt_tokens,
                    cached_tokens=decision.cached_tokens,
                    completion_tokens=decision.completion_tokens,
                    duration_ms=decision.duration_ms,
                    raw=decision.raw,
                    allowed=None if allowed is None else tuple(sorted(allowed)),
                    finish_reason=decision.finish_reason,
                    context_tokens=self.context.tokens,
                )
                self.journal.record(self.session, step)
                if refused is None or shown is None:
                    return decision
                self._record(refused, *shown)

    def dispatch(self, decision: Decision) -> Result:
        """Carry the decision out. What a tool refuses is a result, too: the model is told."""
        self._promise()
        started = self.clock.monotonic()
        try:
            result = self.agent.dispatch(decision.value)
        except ToolError as error:
            told = {**decision.args, "error": error.what}
            result = Result(told, trusted=False, effect=not isinstance(error, PermissionRefused))
        self._check_declared(result.publish)
        self.log.info(
            "turn.dispatched",
            turn=self.guards.turns,
            decision=decision.name,
            duration_ms=round((self.clock.monotonic() - started) * 1000, 1),
            error=result.value.get("error"),
        )
        return result

    def append(self, decision: Decision, result: Result) -> None:
        """Record the result, staged events included, and append it to the log.

        What was done is recorded even if the tokenizer cannot be asked: else it would be done
        again, or told as interrupted. Then a byte counts as a token, of which it is never less.
        """
        asked = len(self.session.counted)
        try:
            shown = self._shown(decision, result)
        except (ModelError, ModelUnavailable, Stopped) as error:
            self.log.warning("turn.uncounted", turn=self.guards.turns, error=str(error))
            del self.session.counted[asked:]
            self._tokens = _bytes
            shown = self._shown(decision, result)
            self._tokens = self.llm.count
        self._record(result, *shown)

    def _shown(self, decision: Decision, result: Result) -> tuple[LogEvent, int]:
        """Return the result as the log will show it, and its tokens.

        It asks the tokenizer, over HTTP as a rule: never inside a transaction.
        """
        event, tokens = self._fit(snake_case(decision.name), result)
        if tokens <= self.context.room:
            return event, tokens
        self.guards.close("the context is full")
        return self._fit(event.type, Result(NO_ROOM, result.trusted))

    def _record(self, result: Result, event: LogEvent, tokens: int) -> None:
        shown = replace(result, value=event.payload)
        step = self.journal.record_result(self.session, event.type, shown)
        self._show(step, tokens)
        if not step.idempotent:
            self.guards.changed()

    def finish(self, done: Decision) -> Result:
        """Return what Done comes to: what to publish, to remember, and the session's outcome."""
        self._promise()
        agent = self.agent
        agent.forced = forced(self.session.steps, self.guards.names - agent.barred())
        result = agent.finish(done.value, self.session.event, self._results())
        self._check_declared(result.publish)
        return result

    def _count(self, text: str) -> int:
        """Ask the tokenizer, and keep what it said: a replay has none."""
        tokens = self._tokens(text)
        self.session.counted.append(tokens)
        return tokens

    def _promise(self) -> None:
        """Let the agent's own code work for as long as a turn may record nothing."""
        self.beat(self.limits.no_progress.total_seconds())

    def _note(self, payload: Mapping[str, Any], last: bool) -> None:
        """Tell the model; once, however often the call that follows it is cut off.

        The reserve is the last turn's: without room for another note, the mask alone speaks.
        """
        before = self.session.steps[-1]
        if before.kind is StepKind.NOTE and before.payload == payload:
            return
        event = LogEvent(NOTE, self.clock.now(), payload, True)
        tokens = self.context.measure(event)
        if last or tokens <= self.context.room:
            step = self.journal.record_note(self.session, NOTE, payload)
            self._show(step, tokens)

    def _show(self, step: Step, tokens: int | None = None) -> None:
        """Append a recorded step to the log, with its own time."""
        self.context.add(LogEvent(step.type, step.ts, step.payload, step.trusted), tokens)

    def _allowed(self, turn: Turn) -> frozenset[str] | None:
        """Return what the turn allows and the agent does not bar; None for everything."""
        barred = self.agent.barred()
        if turn.last or not barred:
            return turn.allowed
        return ((turn.allowed or self.guards.names) - barred) or turn.allowed

    def _results(self) -> list[Mapping[str, Any]]:
        return [step.payload for step in self.session.steps if step.kind is StepKind.RESULT]

    def _resume(self) -> Decision | None:
        unfinished: Step | None = None
        for step in self.session.steps:
            if step.kind is StepKind.DECISION:
                self.guards.next_turn()  # a repeat that was forbidden for a turn is so no more
                self.guards.decided(step.type, step.payload)
                unfinished = step
                continue
            self._show(step)
            if step.kind is StepKind.RESULT:
                unfinished = None
                if not step.idempotent:
                    self.guards.changed()
        pending = self.llm.restore(unfinished.raw or "") if unfinished else None
        if pending is None or pending.name == DONE or pending.name in self.idempotent:
            return pending
        interrupted = "interrupted in the middle: it may have happened or not"
        self.append(pending, Result({**pending.args, "error": interrupted}))
        return None

    def _refused(self, decision: Decision) -> Result | None:
        """Return what to tell the model instead of carrying its decision out, or None."""
        if decision.name == DONE:
            return None
        if decision.finish_reason == "length":  # half a path is a legal and wrong path
            self.guards.cut_answer()
            told: str | None = f"cut off after {self.limits.decision_tokens} tokens; be brief"
        else:
            told = self.guards.decided(decision.name, decision.args)
        return None if told is None else Result({"error": told}, effect=False)

    def _fit(self, kind: str, result: Result) -> tuple[LogEvent, int]:
        """Return the result as an event within its own cap, and its tokens."""
        event = LogEvent(kind, self.clock.now(), result.value, result.trusted)
        limit = self.limits.result_tokens
        if not self.session.steps:  # the opening has to fit: there is no session without it
            limit = min(limit, self.context.room)
        return self.context.cut(event, limit)

    def _check_declared(self, events: Sequence[NewEvent]) -> None:
        """Hold what an agent publishes to the payload models that it declares."""
        declared = self.agent.published(self.agent.params)
        for event in events:
            model = declared.get(event.event_type)
            if model is None:
                raise SessionFailed(
                    f"publishes {event.event_type}, which `publishes` does not declare",
                    where=f"agents/{type(self.agent).__module__.rpartition('.')[2]}.py",
                )
            try:
                model.model_validate(dict(event.payload))
            except ValidationError as error:
                where = f"payload of {event.event_type}"
                raise SessionFailed(_first(error), where=where) from error

    def _log_turn(self, number: int, decision: Decision) -> None:
        self.log.info(
            "turn.decided",
            turn=number,
            decision=decision.name,
            duration_ms=round(decision.duration_ms, 1),
            prompt_tokens=decision.prompt_tokens,
            cached_tokens=decision.cached_tokens,
            completion_tokens=decision.completion_tokens,
            context_tokens=self.context.tokens,
            context_budget=self.context.budget,
            finish_reason=decision.finish_reason,
        )


def snake_case(name: str) -> str:
    """Return the log's event type of a decision class: ReadFile -> read_file."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _bytes(text: str) -> int:
    return len(text.encode())


def _first(error: ValidationError) -> str:
    return first(error.errors(include_url=False, include_input=False), "payload")
