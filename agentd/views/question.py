"""What became of a question that a person asked an agent: how far it is, turn by turn, its answer.

A follow-up has the answer as its cause, or the question where there is no answer. So a thread is
read from its end to its beginning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.bus import Bus
from agentd.clock import iso
from agentd.errors import UsageError
from agentd.events import QUESTION, Event, is_result, result_of
from agentd.llm.decision import DONE
from agentd.sessions.archive import Archive, SessionRow
from agentd.sessions.steps import Step, StepKind
from agentd.states import SessionState
from agentd.terminal import cut, shorten

ASSISTANT = "assistant"  # whom a question without a name is for
WAITING, WORKING, ASKS, ANSWERED, FAILED = "waiting", "working", "asks", "answered", "failed"
AT_REST = (ANSWERED, FAILED)
THREAD_MAX = 20  # exchanges that are given of a thread
ARGUMENT_CHARACTERS = 60  # of one that a turn's line shows
ANSWER_CHARACTERS = 20_000
PUBLISHED_MAX = 500  # events of the agent after the question, among which are those that came of it


@dataclass(frozen=True)
class CameOf:
    """What became of an event that was sent to one agent.

    `session` is its last one, None before one began; `published` the events that it caused;
    `problem` why it failed, or why it is tried again.
    """

    state: str
    session: SessionRow | None = None
    published: Sequence[Event] = ()
    problem: str | None = None


def came_of(bus: Bus, event: Event) -> CameOf:
    """Return what became of an event by now."""
    agent = event.target or ""
    row = Archive(bus).of_event(agent, event.id)
    if (letter := bus.dead.of_event(agent, event.id)) is not None:
        return CameOf(FAILED, row, problem=letter.error)
    if row is None:
        return CameOf(WAITING)
    if row.state is SessionState.PARKED:
        return CameOf(ASKS, row)
    if row.state is not SessionState.ENDED:
        return CameOf(WORKING, row, problem=row.error)
    later = bus.events.list(after=event.id, agent=agent, limit=PUBLISHED_MAX)
    return CameOf(ANSWERED, row, [one for one in later if one.cause_id == event.id])


def question_document(bus: Bus, event_id: int) -> dict[str, Any]:
    """Return a question with all that became of it.

    Raises:
        UsageError: there is no such question, or not any more.
    """
    event = bus.events.get(event_id)
    if event is None or not is_question(event):
        raise UsageError(
            "there is no such question, or not any more" if event is None else "is no question",
            where=str(event_id),
            hint="`agentd events --type question.asked` lists them",
        )
    came = came_of(bus, event)
    row = came.session
    turns = [] if row is None else [*turns_in_words(Archive(bus).steps(row.id))]
    before = _asked_before(bus, event)
    return {
        "id": event.id,
        "agent": event.target,
        "question": event.payload["question"],
        "asked_at": iso(event.created_at),
        "before": before and before.id,
        "state": came.state,
        "session": row and row.id,
        "turns": [line for line, came in turns if came],
        "now": next((line for line, came in turns[-1:] if not came), None),
        "asks": row.question if row and came.state == ASKS else None,
        "answer": _answer(row, came.published) if row and came.state == ANSWERED else None,
        "problem": came.problem,
    }


def questions(bus: Bus, *, limit: int) -> list[dict[str, Any]]:
    """Return the newest questions, the newest first."""
    asked = bus.events.list(event_type=QUESTION, limit=limit, newest=True)
    return [question_document(bus, one.id) for one in reversed(asked) if is_question(one)]


def thread(bus: Bus, event_id: int) -> list[dict[str, Any]]:
    """Return a question after those that it follows up, the first one first.

    Raises:
        UsageError: as `question_document`.
    """
    found = [question_document(bus, event_id)]
    while (before := found[0]["before"]) is not None and len(found) < THREAD_MAX:
        found.insert(0, question_document(bus, before))
    return found


def is_question(event: Event) -> bool:
    """Whether it is one of `agentd ask`."""
    asked = event.payload.get("question")
    return event.event_type == QUESTION and event.target is not None and isinstance(asked, str)


def _asked_before(bus: Bus, event: Event) -> Event | None:
    """Return the question that one follows up, None where it does not, or it was pruned."""
    cause = event.cause_id and bus.events.get(event.cause_id)
    if cause and not is_question(cause):
        cause = cause.cause_id and bus.events.get(cause.cause_id)
    return cause if cause and is_question(cause) and cause.id < event.id else None


def _answer(row: SessionRow, published: Sequence[Event]) -> dict[str, Any]:
    """Return the first result; of an agent that publishes none what its session came to."""
    result = next(filter(is_result, published), None)
    if result is not None:
        title, text = result_of(result)
        return {"event": result.id, "title": title, "text": text}
    outcome = row.outcome if isinstance(row.outcome, Mapping) else {}
    said = [str(value) for key, value in outcome.items() if key != "forced" and value is not None]
    text = cut("\n".join(said), ANSWER_CHARACTERS)
    return {"event": None, "title": "", "text": text or "It ended, and said nothing."}


def turns_in_words(steps: Sequence[Step]) -> Iterator[tuple[str, bool]]:
    """Give a line for each decision: the tool, its arguments, what it came to; whether it did."""
    for at, step in enumerate(steps):
        if step.kind is not StepKind.DECISION or step.type == DONE:
            continue
        words = ", ".join(_short(value) for value in step.payload.values())
        ends = (s for s in steps[at + 1 :] if s.kind in (StepKind.RESULT, StepKind.DECISION))
        result = next(ends, None)
        came = result is not None and result.kind is StepKind.RESULT
        after = _came_to(result.value) if came and result is not None else ""
        yield f"{step.type}{': ' if words else ''}{words}{after}", came or step.about is not None


def _came_to(value: Mapping[str, Any]) -> str:
    if "error" in value:
        return f" -> {_short(value['error'])}"
    counts = [f"{len(v)} {key}" for key, v in value.items() if isinstance(v, list)]
    return f" -> {', '.join(counts)}" if counts else ""


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shorten(" ".join(text.split()), ARGUMENT_CHARACTERS)
