"""What a run left: read from the database and from the tools' own journal alone.

Nothing here uses agentd: an audit that shares the code under test shares its mistakes.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import apsw

ASKED, ANSWER = "person.asked", "person.answer"
STAGES = ("asked", "granted", "started")
ONCE = ("ship", "shelf_book", "shelf_send")  # tools that must not run twice
UNKNOWN = "it may have happened or not"  # of what was cut off
CLOCK_S = 0.002  # a step's time is written in milliseconds


@dataclass(frozen=True)
class Row:
    """An event of the outbox."""

    id: int
    agent: str
    kind: str
    payload: dict[str, Any]
    target: str | None
    cause: int | None


@dataclass(frozen=True)
class Ran:
    """A session with its steps: kind, type, payload, time."""

    id: int
    agent: str
    event: int
    version: str
    state: str
    began: float
    steps: "tuple[Step, ...]"

    def results(self, name: str) -> "list[Step]":
        """Return the results of one tool."""
        return [step for step in self.steps if (step.kind, step.name) == ("result", name)]


class Step(NamedTuple):
    """A step of a session."""

    kind: str
    name: str
    payload: dict[str, Any]
    at: float


@dataclass
class Left:
    """All that a run left behind."""

    integrity: list[str]
    events: dict[int, Row]
    cursors: dict[str, int]
    subscriptions: dict[str, list[str]]  # by agent
    sessions: list[Ran]
    letters: list[tuple[str, str, str, int]]  # agent, reason, error, event
    facts: dict[tuple[str, str], Any]
    resumed: int
    journal: list[dict[str, Any]]


@dataclass
class Report:
    """The audit's findings; no problem means that the promise was kept."""

    problems: list[str]
    counts: dict[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        shown = "".join(f"\n  {problem}" for problem in self.problems[:40])
        return f"{counts}; {len(self.problems)} problems{shown}"


def audit(database: Path, journal: Path, outputs: dict[str, str]) -> Report:
    """Look for what was lost, done twice, out of order, stuck or damaged.

    `outputs` names, by agent, the event type with which it answers an event.
    """
    try:
        left = read(database, journal)
    except apsw.CorruptError as error:
        return Report([f"damaged: {error}"], {})
    problems = [
        *_damaged(left),
        *_unanswered(left),
        *_published(left, outputs),
        *_out_of_order(left, outputs),
        *_steps(left),
        *_memory(left),
        *_side_effects(left),
        *_approved(left),
        *_letters(left),
        *_acknowledged(left),
        *_files(left, journal.parent / "drop"),
    ]
    counts = {
        "events": len(left.events),
        "sessions": len(left.sessions),
        "resumed": left.resumed,
        "approvals": sum(step.kind == "granted" for s in left.sessions for step in s.steps),
        "side effects": sum(line["what"] == "effect" for line in left.journal),
        "dead letters": len(left.letters),
    }
    return Report(problems, counts)


def delivered(database: Path, days: Path) -> list[str]:
    """Look for bills that stand not once in the files of the days, or out of order.

    What was billed before the first one in there was so before there was anybody to write it.
    """
    with closing(apsw.Connection(str(database))) as db:
        rows = db.execute("SELECT id FROM outbox WHERE event_type = 'order.billed' ORDER BY id")
        bills = [int(row[0]) for row in rows]
    texts = [file.read_text() for file in sorted(days.glob("*.md"))]
    marks = [int(mark) for text in texts for mark in re.findall(r"<!-- agentd (\d+) -->", text)]
    written = [mark for mark in marks if mark in set(bills)]
    expected = [bill for bill in bills if written and bill >= written[0]]
    found = [f"{days}: {sorted({*expected} ^ {*written})} are not both"] * (expected != written)
    return found + [f"torn: {text[-80:]!r}" for text in texts if not text.endswith("\n")]


def read(database: Path, journal: Path) -> Left:
    """Read everything in one snapshot."""
    with closing(apsw.Connection(str(database))) as db:
        db.set_busy_timeout(30_000)
        db.execute("BEGIN")

        def table(query: str) -> list[Any]:
            return db.execute(query).fetchall()

        events = table("SELECT id, agent, event_type, payload, target, cause_id FROM outbox")
        facts = table("SELECT agent, key, value FROM facts")
        return Left(
            integrity=[str(row[0]) for row in table("PRAGMA integrity_check")],
            events={row[0]: _event(*row) for row in events},
            cursors=dict(table("SELECT consumer, last_seen_id FROM cursors")),
            subscriptions={
                name: json.loads(kinds)
                for name, kinds in table("SELECT name, subscribe FROM agents")
            },
            sessions=_sessions(table),
            letters=table("SELECT agent, reason, error, event_id FROM dead_letters"),
            facts={(agent, key): json.loads(value) for agent, key, value in facts},
            resumed=table("SELECT coalesce(sum(attempt - 1), 0) FROM sessions")[0][0],
            journal=_lines(journal),
        )


def _sessions(table: Callable[[str], list[Any]]) -> list[Ran]:
    steps = defaultdict(list)
    for session, kind, name, payload, ts in table(
        "SELECT session_id, kind, type, payload, ts FROM steps ORDER BY session_id, seq"
    ):
        steps[session].append(Step(kind, name, json.loads(payload), _seconds(ts)))
    rows = table("SELECT id, agent, event_id, version, state, started_at FROM sessions ORDER BY id")
    return [
        Ran(number, agent, event, version, state, _seconds(began), tuple(steps[number]))
        for number, agent, event, version, state, began in rows
    ]


def _event(
    number: int, agent: str, kind: str, payload: str, target: str | None, cause: int | None
) -> Row:
    return Row(number, agent, kind, json.loads(payload), target, cause)


def _lines(journal: Path) -> list[dict[str, Any]]:
    text = journal.read_text() if journal.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso.replace("Z", "+00:00")).timestamp()


# --- the checks


def _damaged(left: Left) -> Iterator[str]:
    if left.integrity != ["ok"]:
        yield f"damaged: {left.integrity[:5]}"


def _wanted(left: Left) -> Iterator[tuple[str, Row, int]]:
    """Yield every event that an agent has to answer, with the cursor of its lane."""
    for agent, kinds in left.subscriptions.items():
        for event in left.events.values():
            if event.kind == ANSWER:
                continue  # it goes on with a session of another event: see `_approved`
            if event.target == agent:
                yield agent, event, left.cursors[f"{agent}/direct"]
            elif event.target is None and event.kind in kinds and event.agent != agent:
                yield agent, event, left.cursors[agent]


def _unanswered(left: Left) -> Iterator[str]:
    """Every event is answered by one ended session, or stands in the dead letters."""
    ended = Counter((s.agent, s.event) for s in left.sessions if s.state == "ended")
    dead = Counter((agent, event) for agent, _, _, event in left.letters)
    for agent, event, cursor in _wanted(left):
        answers = ended[agent, event.id] + dead[agent, event.id]
        name = f"event {event.id} ({event.kind}) for {agent}"
        if answers == 0:
            yield f"lost: {name}" if cursor >= event.id else f"stuck: {name}"
        elif answers > 1:
            yield f"twice: {name} was answered {answers} times"
        elif cursor < event.id:
            yield f"stuck: {name} is answered and its lane was not stepped"
    for session in left.sessions:
        if session.state in ("running", "parked"):
            yield f"stuck: session {session.id} of {session.agent} is {session.state}"


def _published(left: Left, outputs: dict[str, str]) -> Iterator[str]:
    """Every ended session published its answer once, and nobody else anything but a question."""
    published = Counter((e.agent, e.cause, e.kind) for e in left.events.values())
    ended = {(s.agent, s.event): s for s in left.sessions if s.state == "ended"}
    for (agent, event), session in ended.items():
        shipped = any("shipped" in step.payload for step in session.steps)
        for kind, expected in ((outputs[agent], 1), ("parcel.shipped", int(shipped))):
            found = published[agent, event, kind]
            if found != expected:
                word = "lost" if found < expected else "twice"
                yield f"{word}: {agent} published {kind} {found} times for event {event}"
    asked = {
        (s.agent, s.event) for s in left.sessions if any(step.kind == "asked" for step in s.steps)
    }
    for row in left.events.values():
        those = asked if row.kind == ASKED else ended.keys()
        if row.agent in outputs and (row.agent, row.cause or 0) not in those:
            yield f"out of nothing: event {row.id} ({row.kind}) of {row.agent}"


def _out_of_order(left: Left, outputs: dict[str, str]) -> Iterator[str]:
    """In each lane, answers come in the order of what they answer; not where a person is asked."""
    last: dict[tuple[str, bool], int] = {}
    asking = {event.agent for event in left.events.values() if event.kind == ASKED}
    for event in sorted(left.events.values(), key=lambda event: event.id):
        if outputs.get(event.agent) != event.kind or event.cause is None:
            continue
        if event.agent in asking:
            continue
        lane = event.agent, left.events[event.cause].target is not None
        if event.cause <= last.get(lane, 0):
            yield f"out of order: event {event.id} answers {event.cause} after {last[lane]}"
        last[lane] = event.cause


def _steps(left: Left) -> Iterator[str]:
    """A decision is followed by its result, and none is asked for again."""
    for session in left.sessions:
        open_decision = False
        for step in session.steps:
            if step.kind == "decision":
                if open_decision:
                    yield f"asked again: session {session.id} decided {step.name} before a result"
                open_decision = True
            elif step.kind == "result":
                open_decision = False
        openings = sum(step.kind == "opening" for step in session.steps)
        if session.state == "ended" and openings != 1:
            yield f"session {session.id} was opened {openings} times"


def _memory(left: Left) -> Iterator[str]:
    """What an agent counted is what it ended."""
    ended = Counter(s.agent for s in left.sessions if s.state == "ended")
    for agent in left.subscriptions:
        counted = left.facts.get((agent, "count"), 0)
        if counted != ended[agent]:
            yield f"memory: {agent} counted {counted} of {ended[agent]} sessions"


def _side_effects(left: Left) -> Iterator[str]:
    """Tools ran once; again only when cut off, and what must not run twice is told instead."""
    by_event: dict[tuple[str, int], list[Ran]] = defaultdict(list)
    for session in left.sessions:
        by_event[session.agent, session.event].append(session)
    runs: dict[tuple[str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for line in left.journal:
        if line["what"] != "placed":
            runs[line["agent"], line["event"], line["tool"]].append(line)
    for (agent, event, tool), lines in runs.items():
        where = f"{tool} of {agent} for event {event}"
        starts = [line for line in lines if line["what"] == "start"]
        if len({line["pid"] for line in starts}) != len(starts):
            yield f"twice: {where} in one process"
        for session in by_event[agent, event]:
            later = [s.began for s in by_event[agent, event] if s.id > session.id]
            end = min(later, default=float("inf"))
            for result in session.results(tool)[:1]:
                if any(result.at + CLOCK_S < line["at"] < end for line in starts):
                    yield f"twice: {where} ran again after its result was recorded"
        if tool in ONCE:
            yield from _once(where, tool, lines, by_event[agent, event])


def _once(where: str, tool: str, lines: list[dict[str, Any]], sessions: list[Ran]) -> Iterator[str]:
    counts = Counter(line["what"] for line in lines)
    if counts["start"] > 1 or counts["effect"] > 1:
        yield f"twice: {where} happened {counts['effect']} times in {counts['start']} runs"
    for session in sessions:
        results = [step.payload for step in session.results(tool)]
        if session.state != "ended":
            continue
        if len(results) != 1:
            yield f"{where} has {len(results)} results in session {session.id}"
        elif "error" not in results[0] and not counts["finish"] == counts["effect"] == 1:
            yield f"{where} is said to have happened, and did not"
        elif "error" in results[0] and counts["finish"] and counts["effect"] != 1:
            yield f"{where} finished without its effect"
        elif counts["effect"] and not any(
            word in results[0].get("error", UNKNOWN) for word in (UNKNOWN, "exit ")
        ):  # an exit code is a program's own word
            yield f"{where} happened, and is told as if it had not: {results[0]['error']}"


def _approved(left: Left) -> Iterator[str]:
    """What a person was asked was answered once, and done only after a yes."""
    answers = Counter(e.payload["asked"] for e in left.events.values() if e.kind == ANSWER)
    for asked in (e.payload["asked"] for e in left.events.values() if e.kind == ASKED):
        if answers[asked] != 1:
            yield f"approval {asked[:8]} was answered {answers[asked]} times"
    for session in left.sessions:
        stages: list[str] = []  # of the decision that is being looked at
        for step in session.steps:
            if step.kind == "decision":
                stages = []
            elif step.kind in STAGES:
                if step.kind != STAGES[len(stages)]:
                    yield f"session {session.id} went to {step.kind} after {stages}"
                stages = [*stages, step.kind]
            elif step.kind == "result" and stages and stages != list(STAGES):
                yield f"session {session.id} did {step.name} after {stages}"


def _letters(left: Left) -> Iterator[str]:
    """A kill alone makes no dead letter; a changed prompt after an effect does."""
    versions = defaultdict(set)
    for session in left.sessions:
        versions[session.agent].add(session.version)
    for agent, reason, error, event in left.letters:
        changed = reason == "partial effects" and "changed" in error
        if not changed or len(versions[agent]) < 2:
            yield f"dead letter of {agent} for event {event}: {reason}: {error}"


def _files(left: Left, folder: Path) -> Iterator[str]:
    """Each content in the watched folder was told of once, whatever the file was called."""
    told = Counter(
        Path(e.payload["name"]).stem.removesuffix(" again")
        for e in left.events.values()
        if e.kind == "file.changed"
    )
    for path in folder.glob("*.txt"):
        times = told.pop(path.stem.removesuffix(" again"), 0)
        if times != 1:
            yield f"{'lost' if not times else 'twice'}: {path.name} was told of {times} times"
    if told:
        yield f"out of nothing: {sorted(told)} lay in no watched folder"


def _acknowledged(left: Left) -> Iterator[str]:
    """What was acknowledged to its sender is on the bus, once."""
    numbers = Counter(e.payload.get("n") for e in left.events.values() if e.kind == "order.placed")
    for line in left.journal:
        if line["what"] != "placed":
            continue
        event = left.events.get(line["event"])
        if event is None or event.payload["n"] != line["n"] or numbers[line["n"]] != 1:
            yield f"lost: order {line['n']} was acknowledged as event {line['event']}"
