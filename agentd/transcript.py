"""The transcript: what a session decided and what came of it, as recorded and as the model sees it.

Each step is written down by the session's journal. All but the decisions are shown in the context.
What is shown keeps within its budget: a long result is cut, and one that finds no room is left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from agentd.agent import Result
from agentd.config.duration import written
from agentd.context import Context, LogEvent, render
from agentd.errors import ModelError, ModelUnavailable, SessionFailed, Stopped
from agentd.llm.decision import LLM, Decision
from agentd.logs.logger import Logger
from agentd.sessions.asked import EXPIRES
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.sessions.steps import LOGGED, Step, StepKind

NOTE = "note"  # the event in which agentd itself speaks to the model
NO_ROOM = {"cut": "no room left in the context"}
RESERVE_TOKENS = 128  # kept free for a result without room (NO_ROOM) and the last turn's note
ROUGH_PART = 8  # a result may take this part of the room as bytes, until its tokens are known

ABOUT = "row"  # the event in which the model sees what a question is about

Shown = tuple[LogEvent, int]  # a result as the log will show it, and its tokens


class Transcript:
    """One session's steps. `full`: a result found no room in the context."""

    def __init__(self, session: Session, llm: LLM, journal: Journal, log: Logger) -> None:
        self.full = False
        self._session, self._journal, self._log = session, journal, log
        self._llm = llm
        self._tokens = llm.count
        self.context = Context(
            self._count,
            fixed=llm.fixed_tokens(),
            window=llm.window(),
            share=session.limits.context_share,
            reserve=RESERVE_TOKENS,
        )

    def resume(self) -> None:
        """Show what is recorded already."""
        for step in self._session.steps:
            if step.kind in LOGGED:
                self._show(step)

    def open(self, opening: Result) -> None:
        """Record and show what the agent opens the session with."""
        kind, room = self._session.event.event_type, self.context.room
        # It has to fit: there is no session without it.
        event, tokens = self._fit(kind, opening, min(self._session.limits.result_tokens, room))
        step = self._journal.record_opening(
            self._session, kind, event.payload, trusted=opening.trusted
        )
        self._show(step, tokens)

    def note(self, text: str, *, last: bool) -> None:
        """Tell the model; once, however often the call that follows it is cut off.

        The reserve is the last turn's: without room for another note, the mask alone speaks.
        """
        payload, before = {"text": text}, self._session.steps[-1]
        if before.kind is StepKind.NOTE and before.payload == payload:
            return
        tokens = self.context.measure(LogEvent(NOTE, self._journal.clock.now(), payload, True))
        if last or tokens <= self.context.room:
            self._show(self._journal.record_note(self._session, NOTE, payload), tokens)

    def about(self, payload: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Return what a question is about, cut to its room, and the log of that alone.

        Raises:
            SessionFailed: it cannot be cut so short.
        """
        limit = min(self._session.limits.result_tokens, self.context.space)
        event, tokens = self.context.cut(event_about(payload, self._session.steps), limit)
        if tokens > self.context.space:
            raise SessionFailed(
                f"a row takes {tokens} tokens; there is room for {self.context.space}",
                hint="raise [limits] context_share, or use a model with a larger window",
            )
        return event.payload, render(event)

    def decided(
        self,
        decision: Decision,
        *,
        allowed: frozenset[str] | None = None,
        idempotent: bool = True,
        asks: bool = False,
        refused: Result | None = None,
        **more: Any,
    ) -> None:
        """Record a decision; where it is `refused`, with what the model is told instead.

        Both in one transaction: a refused decision must not look unfinished. `more` are further
        fields of the step.
        """
        told = None if refused is None else self._within_room(decision, refused)
        step = Step(
            StepKind.DECISION,
            decision.name,
            decision.args,
            idempotent=idempotent,
            raw=decision.raw or None,
            allowed=None if allowed is None else tuple(sorted(allowed)),
            finish_reason=decision.finish_reason,
            context_tokens=self.context.tokens,
            labels=decision.labels,
            asks=asks,
            planned=decision.planned,
            **more,
            **vars(decision.usage),
        )
        with self._journal.transaction():
            self._journal.record(self._session, step)
            if refused is not None and told is not None:
                self._append(refused, told)

    def ask(self, decision: Decision, expires: timedelta) -> None:
        """Record that a decision waits for a person's yes; it is written with the parking.

        A kill in between leaves a decision that nobody was asked about yet.
        """
        payload = {EXPIRES: written(expires)}
        step = Step(StepKind.ASKED, decision.name, payload)
        self._journal.record(self._session, step, later=True)

    def start(self, decision: Decision) -> None:
        """Record that what a person said yes to is now carried out."""
        self._journal.record(self._session, Step(StepKind.STARTED, decision.name, {}))

    def append(self, decision: Decision, result: Result) -> Step:
        """Record what a decision came to, and show it.

        What was done is recorded even if the tokenizer cannot be asked: else it would be done
        again, or told as interrupted. Then count bytes: a token is never shorter than one.
        """
        asked = len(self._session.counted)
        try:
            shown = self._within_room(decision, result)
        except (ModelError, ModelUnavailable, Stopped) as error:
            self._log.warning("turn.uncounted", turn=self._session.turns, error=str(error))
            del self._session.counted[asked:]
            self._tokens = _bytes
            shown = self._within_room(decision, result)
            self._tokens = self._llm.count
        whole = result.value if decision.planned else None
        return self._append(result, shown, whole)

    def _append(self, result: Result, shown: Shown, whole: Mapping[str, Any] | None = None) -> Step:
        event, tokens = shown
        kept = replace(result, value=event.payload)
        whole = None if whole == event.payload else whole
        step = self._journal.record_result(self._session, event.type, kept, whole)
        self._show(step, tokens)
        return step

    def _show(self, step: Step, tokens: int | None = None) -> None:
        """Show a recorded step, with its own time."""
        self.context.add(LogEvent(step.type, step.ts, step.payload, step.trusted), tokens)

    def _within_room(self, decision: Decision, result: Result) -> Shown:
        """Return the result as the log will show it; where there is no room, a word in its place.

        It may ask the tokenizer, over HTTP as a rule: never inside a transaction.
        """
        kind, limit = snake_case(decision.name), self._session.limits.result_tokens
        if decision.planned:  # its code reads all of it: it never fills what the model needs
            limit, within = min(limit, self.context.room // 2), 0
        elif self.context.rough:  # the model was not asked since: nothing told what the last took
            within = 0
        else:  # the model is asked next as a rule, which tells the tokens of what is short
            within = min(limit, self.context.room // ROUGH_PART)
        event, tokens = self._fit(kind, result, limit, within)
        if tokens <= self.context.room:
            return event, tokens
        self.full = not decision.planned
        return self._fit(kind, Result(NO_ROOM, result.trusted), limit)

    def _fit(self, kind: str, result: Result, limit: int, within: int = 0) -> Shown:
        """Return the result as an event of at most `limit` tokens."""
        event = LogEvent(kind, self._journal.clock.now(), result.value, result.trusted)
        return self.context.cut(event, limit, within)

    def _count(self, text: str, within: int) -> int:
        """Ask the tokenizer, and keep what it said: a replay has none."""
        tokens = self._tokens(text, within)
        self._session.counted.append(tokens)
        return tokens


def event_about(payload: Mapping[str, Any], steps: Sequence[Step]) -> LogEvent:
    """Return the event of what a question is about. All of a session's are of one time."""
    return LogEvent(ABOUT, steps[0].ts, payload, False)


def snake_case(name: str) -> str:
    """Return the log's event type of a decision class: ReadFile -> read_file."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _bytes(text: str, within: int = 0) -> int:
    return len(text.encode())
