"""The loop: decide, Done?, dispatch, append, again. One session from its opening to its end.

What surrounds it lives elsewhere: limits in guards.py, what is recorded and shown in transcript.py,
what survives a crash in sessions/. A resumed session comes through here as well: its recorded steps
fill the log first, a recorded decision is not asked again, a finished tool is not run again. What a
person has to say yes to (see approval/) parks the session, and is carried out when it resumes. What
the agent plans itself is recorded and carried out in the same way, without a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentd.agent import Agent, PlannedCall, Question
from agentd.approval.approval import Policy
from agentd.errors import EventRefused, PermissionRefused, SessionFailed, ToolError
from agentd.events import INTERRUPTED, Event, Result, parts
from agentd.guards import Guards, Turn, forced
from agentd.llm.decision import DONE, LLM, Ask, Candidates, Decision
from agentd.logs.logger import Logger
from agentd.sessions.asked import asked_by, denial
from agentd.sessions.journal import Journal
from agentd.sessions.returned import check_payload, check_published, checked_result
from agentd.sessions.session import FORCED, Session
from agentd.sessions.steps import StepKind
from agentd.transcript import Transcript

DENIED = "is not allowed: [approve] denies it"
REFUSED = (StepKind.GRANTED, StepKind.DENIED)  # where a session is at a no, or at a yes too late
CALLS_MAX, QUESTIONS_MAX = 32, 200  # of one session, that its agent plans


@dataclass(frozen=True)
class Ending:
    """How a run of the loop ended: with Done's result, or parked on what a person is asked."""

    result: Result
    question: str | None = None
    forced: str | None = None  # why Done was the only decision left

    @property
    def outcome(self) -> dict[str, Any]:
        """What is kept of Done's result."""
        own = dict(self.result.value)
        return own if self.forced is None or FORCED in own else {**own, FORCED: self.forced}


class Loop:
    """One run of one session.

    `idempotent` names the decisions whose handlers may run again after they were cut off; `policy`
    says which ones a person has to allow; `beat` promises the supervisor progress within so many
    seconds. `use` is told of a person's answer when what it allows begins, and says why that must
    not be: it was used before, whatever the steps say; or raises `ToolError`: nobody can say.

    Raises:
        PromptTooLong: instructions and tools leave no room for any event.
    """

    def __init__(
        self,
        session: Session,
        agent: Agent[Any],
        llm: LLM,
        journal: Journal,
        *,
        idempotent: frozenset[str],
        policy: Policy,
        call_deadline_s: float,
        log: Logger,
        beat: Callable[[float], None],
        use: Callable[[Event], str | None] = lambda _answer: None,
    ) -> None:
        self.session, self.agent, self.llm = session, agent, llm
        self.idempotent = idempotent | {DONE}
        self.policy = policy
        self.call_deadline_s, self.use = call_deadline_s, use
        self.clock, self.log, self.beat = journal.clock, log, beat
        self.guards = Guards(session.limits, llm.names, self.clock, session.spent_s)
        self.transcript = Transcript(session, llm, journal, log)

    def run(self) -> Ending:
        """Run the session to its end.

        Raises:
            EventRefused: the agent cannot read its event.
            SessionFailed, ModelError: it failed; it may be tried again as a new session.
            ModelUnavailable, Stopped: it is cut off here, and resumes where it was.
        """
        decision: Decision | None = None
        if self.session.steps:
            decision = self.resume()
        else:
            self.open()
        while True:
            decision = decision or self.decide()
            if decision.name == DONE:
                return Ending(self.finish(decision), forced=self.agent.forced)
            result = self.carry_out(decision)
            if result is None:
                return Ending(Result(), f"may it do {decision.name}?")
            refused = self.session.stage in REFUSED or decision.name in self.policy.denied
            self.append(decision, result)
            if result.ask is not None:
                return Ending(result, result.ask)
            if decision.planned and refused:  # there is nobody to decide otherwise
                return Ending(result)
            decision = None

    def decide(self) -> Decision:
        """Return what the agent plans, else ask the model until what it decides may be carried out.

        Every decision is recorded.
        """
        while True:
            if self.transcript.full:
                self.guards.leave_only_done("the context is full")
            planned = None if self.guards.closing else self.agent.planned(self.session.results)
            if isinstance(planned, PlannedCall):
                return self._plan(planned)
            if isinstance(planned, Question):
                self._question(planned)
                continue
            turn = self.guards.next_turn()
            if turn.note is not None:
                self.transcript.note(turn.note, last=turn.last)
            self.beat(self.call_deadline_s)
            allowed = self._allowed(turn)
            decision, candidates = self._ask(allowed)
            if allowed is not None and decision.name not in allowed:
                raise SessionFailed(f"decided {decision.name}, which this turn did not allow")
            refused = self._refused(decision)
            self.transcript.decided(
                decision,
                allowed=allowed,
                idempotent=decision.name in self.idempotent,
                asks=self.policy.asks_about(decision.name, decision.args),
                refused=refused,
                candidates=candidates,
            )
            if refused is None:
                return decision

    def _plan(self, call: PlannedCall) -> Decision:
        if sum(step.planned for step in self.session.steps) >= CALLS_MAX:
            raise SessionFailed(f"plans more than {CALLS_MAX} calls", where="`planned`")
        decision = Decision.plan(call.name, call.args)
        again, asks = call.name in self.idempotent, self.policy.asks_about(call.name, call.args)
        self.transcript.decided(decision, idempotent=again, asks=asks)
        return decision

    def _question(self, question: Question) -> None:
        """Ask the model for one class, about this alone; what it says is data, and ends here."""
        if sum(step.about is not None for step in self.session.steps) >= QUESTIONS_MAX:
            raise SessionFailed(f"plans more than {QUESTIONS_MAX} questions", where="`planned`")
        self.beat(self.call_deadline_s)
        allowed = frozenset({question.name})
        about, log = self.transcript.about(question.about)
        decision, candidates = self._ask(allowed, log)
        self.transcript.decided(decision, allowed=allowed, about=about, candidates=candidates)

    def carry_out(self, decision: Decision) -> Result | None:
        """Return what a decision comes to, None where a person has yet to say yes.

        Raises:
            SessionFailed: what was said yes to is something else.
        """
        stage = self.session.stage
        if stage is StepKind.DECISION:
            if decision.name in self.policy.denied:  # where an agent barred all else
                return Result({**decision.args, "error": DENIED}, effect=False)
            if not self.policy.asks_about(decision.name, decision.args):
                return self.dispatch(decision)
            self.transcript.ask(decision, self.policy.expires)
        if stage in (StepKind.DECISION, StepKind.ASKED):
            return None
        if stage is StepKind.DENIED:
            no: Mapping[str, Any] | None = self.session.steps[-1].payload
        else:
            no = self._denied(decision)
        if no is not None:
            return Result({**decision.args, "error": denial(no)}, effect=False)
        self.transcript.start(decision)
        try:
            why = self.use(self.session.delivery)
        except ToolError as error:  # whether the yes counts nobody said: so nothing begins
            told = f"{decision.name} was not begun: {error.what}"
            result = Result({**decision.args, "error": told}, effect=False)
            if decision.planned:  # there is nobody to be told, and to decide otherwise
                self.append(decision, result)
                raise SessionFailed(told) from error
            return result
        if why is not None:
            raise SessionFailed(
                f"the yes to this {decision.name} {why}",
                where=f"session {self.session.id}",
                hint="somebody changed its steps, or an older database was restored",
            )
        return self.dispatch(decision)

    def _denied(self, decision: Decision) -> Mapping[str, Any] | None:
        """Return why what was granted is so no more, or None.

        By the answer that brought the session here, and not by its steps: only that is signed.
        """
        asked = asked_by(self.session.id, self.session.steps, "")
        answer = self.session.answer
        if (
            asked is None
            or asked.expires is None
            or asked.mistake(answer)
            or (asked.tool, asked.args) != (decision.name, decision.args)
        ):
            raise SessionFailed(
                f"nobody said yes to this {decision.name}",
                where=f"session {self.session.id}",
                hint="somebody changed its steps",
            )
        return asked.denied(answer, self.clock.now())

    def dispatch(self, decision: Decision) -> Result:
        """Carry the decision out. What a tool refuses is a result, too: the model is told."""
        self._promise()
        self.agent.labelled = self.session.labels
        started = self.clock.monotonic()
        try:
            result = checked_result(self.agent.dispatch(decision.value), "dispatch")
        except ToolError as error:
            if decision.planned:  # there is nobody to be told, and to decide otherwise
                raise SessionFailed(f"{decision.name} failed: {error.what}") from error
            told = {**decision.args, "error": error.what}
            refused = isinstance(error, PermissionRefused)
            result = checked_result(Result(told, trusted=False, effect=not refused), "dispatch")
        check_published(self.agent, result.publish)
        self.log.info(
            "turn.dispatched",
            turn=self.guards.turns,
            decision=decision.name,
            duration_ms=round((self.clock.monotonic() - started) * 1000, 1),
            error=result.value.get("error"),
        )
        return result

    def append(self, decision: Decision, result: Result) -> None:
        """Record the result, staged events included, and append it to the log."""
        if self.transcript.append(decision, result).had_effect:
            self.guards.changed()

    def finish(self, done: Decision) -> Result:
        """Return what Done comes to: what to publish, to remember, and the session's outcome."""
        self._promise()
        agent = self.agent
        agent.labelled = self.session.labels
        agent.forced = forced(
            self.session.steps, self.guards.names - agent.barred() - self.policy.denied
        )
        finished = agent.finish(done.value, self.session.event, self.session.results)
        result = checked_result(finished, "finish")
        check_published(agent, result.publish)
        return result

    def open(self) -> None:
        """Let the agent open the session.

        Raises:
            EventRefused: it cannot read its event.
        """
        event = self.session.event
        if (mistrust := self.policy.mistrusts(event, self.agent.accepts)) is not None:
            raise EventRefused(mistrust, where=f"event {event.id}")
        self.agent.begin(event, [])
        for part in parts(event):
            if (model := self.agent.accepts.get(part.event_type)) is not None:
                check_payload(part.payload, model, EventRefused, f"event {part.id}")
        self.transcript.open(checked_result(self.agent.opening(event), "opening"))

    def resume(self) -> Decision | None:
        """Fill the log, and return a recorded decision that is still to be carried out."""
        self.guards.resume(self.session.steps)
        self.transcript.resume()
        unfinished, pending = self.session.unfinished, None
        if unfinished is not None:
            if unfinished.planned:
                pending = Decision.plan(unfinished.type, unfinished.payload)
            else:
                pending = self.llm.restore(unfinished.raw or "")
            waits = unfinished.asks and self.session.stage is not StepKind.STARTED
            again = not unfinished.asks and pending.name in self.idempotent
            if not (waits or again):
                # Told before the agent begins: it has to know of it, too.
                self.append(pending, Result({**pending.args, "error": INTERRUPTED}))
                if unfinished.planned:
                    raise SessionFailed(f"{pending.name} was {INTERRUPTED}")
                pending = None
        self.agent.begin(self.session.event, self.session.results)
        return pending

    def _ask(
        self, allowed: frozenset[str] | None, log: str | None = None
    ) -> tuple[Decision, Candidates]:
        """Return the model's decision, and what could stand in its fields."""
        candidates = {key: tuple(of) for key, of in self.agent.candidates().items()}
        ask = Ask(
            log=self.transcript.context.text if log is None else log,
            candidates=candidates,
            allowed=allowed,
            max_tokens=self.session.limits.decision_tokens,
            deadline_s=self.call_deadline_s,
            priority=self.session.priority,
            session=self.session.id,
            progress=lambda: self.beat(self.call_deadline_s),
        )
        decision = self.llm.decide(ask)
        if log is None and decision.context_tokens is not None:
            self.transcript.context.settle(decision.context_tokens)
        usage = replace(decision.usage, duration_ms=round(decision.usage.duration_ms, 1))
        self.log.info(
            "turn.decided",
            turn=self.guards.turns,
            decision=decision.name,
            **vars(usage),
            context_tokens=self.transcript.context.tokens,
            context_budget=self.transcript.context.budget,
            finish_reason=decision.finish_reason,
        )
        own = f"{decision.name}."
        return decision, {key: of for key, of in candidates.items() if key.startswith(own)}

    def _allowed(self, turn: Turn) -> frozenset[str] | None:
        """Return what the turn allows and the agent does not bar; None for everything."""
        barred = self.agent.barred() | self.policy.denied
        if turn.last or not barred:
            return turn.allowed
        return ((turn.allowed or self.guards.names) - barred) or turn.allowed

    def _refused(self, decision: Decision) -> Result | None:
        """Return what to tell the model instead of carrying its decision out, or None."""
        if decision.name == DONE:
            return None
        if decision.finish_reason == "length":  # half a path is a legal and wrong path
            self.guards.cut_answer()
            limit = self.session.limits.decision_tokens
            told: str | None = f"cut off after {limit} tokens; be brief"
        else:
            told = self.guards.decided(decision.name, decision.args)
        return None if told is None else Result({"error": told}, effect=False)

    def _promise(self) -> None:
        """Let the agent's own code work for as long as a turn may record nothing."""
        self.beat(self.session.limits.no_progress.total_seconds())
