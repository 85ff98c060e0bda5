"""`agentd ask`: a question to an agent, its progress turn by turn, and the answer."""

import argparse
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import find_agent, open_bus
from agentd.commands.output import (
    BOLD,
    DIM,
    ProgressLine,
    colour,
    note,
    plain,
    print_json,
    say,
    say_lines,
    unescaped,
    whole,
)
from agentd.errors import AgentdError, NotRunning, UsageError
from agentd.events import PERSON, QUESTION, QUESTION_CHARACTERS_MAX, Event, NewEvent
from agentd.paths import Paths, discover
from agentd.process.until import until
from agentd.states import Exit, Priority, WorkerState
from agentd.storage.database_files import files_stay
from agentd.supervisor.client import query
from agentd.terminal import cut
from agentd.views.overview import overview
from agentd.views.question import ASSISTANT, AT_REST, FAILED, WAITING, question_document

WAIT = timedelta(minutes=10)
LOOK_S, WHY_S = 0.2, 2.0  # between two looks, and after which it says what it waits for
BEFORE_CHARACTERS = 600  # of the answer that is followed up
WORKS = (WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF)
LACKS = (WorkerState.WAITING, WorkerState.PARKED, WorkerState.INVALID, WorkerState.STOPPED)

EXAMPLES = """example:
  agentd ask "when does the chimney sweep come?"
  agentd ask repo_review "what was risky this week?"
  agentd ask --thread 41 "and the year after?"      # goes on from question 41
  agentd ask --show 41                              # its answer, or how far it is

The question is an event question.asked for one agent: without a NAME for `assistant`, which
answers from what your agents found and from your notes. Quote it, so that it is one word.
What the agent does is told on stderr, the answer goes to stdout. Ctrl-C leaves the question at
work. Exits 1 where it came to no answer, also not within --wait, or where the agent is off, paused
or parked; 3 without a running daemon: nothing is sent then.

--json prints one object: id (of the question), agent, question, asked_at (UTC), before (the id of
the question that it follows up, or null), state (waiting, working, asks, answered, failed), session
(or null), turns (lines in words), now (such a line, or null), asks (what it asks you, or null: see
`agentd answer`), answer (null or {event, title, text}), problem (why it failed, or is tried
again)."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("words", nargs="*", metavar="[NAME] QUESTION", help="quote the question")
    parser.add_argument("--thread", type=whole, metavar="ID", help="it follows up this question")
    parser.add_argument("--show", type=whole, metavar="ID", help="ask nothing, show this question")
    parser.add_argument(
        "--wait", type=_length, default=WAIT, metavar="AGE", help="for the answer, at most (10m)"
    )
    parser.add_argument("--no-wait", action="store_true", help="only send it, and print its id")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(fail=parser.error)


def _length(text: str) -> timedelta:
    from agentd.config import duration  # 0.1 s, which nothing else here takes

    try:
        return duration.parse(text)
    except ValueError as error:
        told = 'write it as "7d", "12h" or "30m", at most ten years'
        raise argparse.ArgumentTypeError(told) from error


def run(args: argparse.Namespace) -> int:
    """Ask, wait, and print the answer."""
    words = args.words
    if (args.show is not None) == bool(words):
        args.fail(
            "write a question in quotes, or --show ID" if not words else "--show stands alone"
        )
    if len(words) > 2:
        args.fail(f'quote the question, so that it is one word: agentd ask "{" ".join(words)}"')
    paths = discover()
    bus = open_bus(paths, writes=bool(words))
    if args.show is not None:
        document = question_document(bus, args.show)
    else:
        name = words[0] if len(words) == 2 else None
        event_id = ask(bus, paths, name, words[-1], args.thread)
        wait_s = 0.0 if args.no_wait else args.wait.total_seconds()
        document = _followed(bus, paths, event_id, wait_s)
    if args.json:
        print_json(document)
    else:
        _print(document)
    if document["state"] in AT_REST or args.show is not None or args.no_wait:
        return Exit.FAILED if document["state"] == FAILED else Exit.OK
    return Exit.FAILED


def ask(bus: Bus, paths: Paths, name: str | None, question: str, thread: int | None = None) -> int:
    """Send a person's question, and return its event's id.

    `thread`: the question that it follows up; it then goes to the same agent, unless `name` says
    another one, with that question and its answer.

    Raises:
        UsageError: it is none, or there is no such question.
        NotRunning: there is no daemon that could let anybody answer.
        AgentdError: the agent cannot answer now, and why.
    """
    question = question.strip()
    if not question or len(question) > QUESTION_CHARACTERS_MAX:
        what = f"has more than {QUESTION_CHARACTERS_MAX} characters" if question else "is empty"
        raise UsageError(f"the question {what}", hint='agentd ask "what is due today?"')
    payload: dict[str, Any] = {"question": question}
    cause: Event | None = None
    if thread is not None:
        earlier = question_document(bus, thread)
        answer = earlier["answer"] or {"event": None, "text": ""}
        payload["before"] = {
            "question": earlier["question"],
            "answer": cut(answer["text"], BEFORE_CHARACTERS),
        }
        cause = bus.events.get(answer["event"] or thread)
        name = name or earlier["agent"]
    name = name or ASSISTANT
    check_answers(bus, paths, name)
    event = NewEvent(QUESTION, payload, target=name)
    with files_stay(bus):
        event_id = bus.publish(PERSON, event, priority=Priority.PERSON, cause=cause)
    assert event_id is not None, "a person's event without a dedup_key is always written"
    return event_id


def check_answers(bus: Bus, paths: Paths, name: str) -> None:
    """Make sure that an agent can answer now.

    Raises:
        NotRunning: no daemon runs.
        AgentdError: the agent is unknown, off, paused, parked; or its model is not there.
    """
    query(paths)
    find_agent(bus, paths, name)
    document = overview(paths)
    agent = next((one for one in document["agents"] if one["name"] == name), None)
    if agent is None or agent["state"] not in WORKS:
        state = agent["state"] if agent else "not there"
        hint = f"agentd resume {name}" if state in (WorkerState.PAUSED, WorkerState.PARKED) else ""
        why = agent and agent["reason"]
        raise AgentdError(
            f"{name} is {state}{f': {why}' if why else ''}, and answers nobody",
            hint=f"`{hint or f'agentd status {name}'}`",
        )
    model: Mapping[str, Any] = document["model"] or {}
    if model.get("state") in LACKS:
        why = (model.get("problem") or {}).get("what") or model.get("reason")
        raise AgentdError(
            f"the model is {model['state']}{f': {why}' if why else ''}, and {name} waits for it",
            hint=(model.get("problem") or {}).get("hint") or "`agentd model`",
        )


def _followed(bus: Bus, paths: Paths, event_id: int, wait_s: float) -> dict[str, Any]:
    """Tell on stderr what is done, turn by turn; return the question as it then is."""
    progress, told, waited_s, why = ProgressLine(), 0, 0.0, ""
    try:
        for _ in until(wait_s, LOOK_S):
            document = question_document(bus, event_id)
            for line in document["turns"][told:]:
                progress.clear()
                note_line(line)
                waited_s, why = 0.0, ""
            told = len(document["turns"])
            if document["state"] in AT_REST or not wait_s:
                break
            if waited_s >= WHY_S:
                why, waited_s = _waits_for(paths, document), 0.0
            waited_s += LOOK_S
            progress.say(f"{document['agent']} {why or _state(document)}")
    except (KeyboardInterrupt, NotRunning):
        progress.clear()
        note(f"question {event_id} stays: `agentd ask --show {event_id}` shows its answer")
        raise
    progress.clear()
    return document


def note_line(line: str) -> None:
    """Tell one turn on stderr."""
    say(colour(f"  {plain(line)}", DIM), file=sys.stderr, flush=True)


def _state(document: Mapping[str, Any]) -> str:
    if document["asks"]:
        return f"asks you: {document['asks']} (`agentd answer {document['session']}`)"
    if document["state"] == WAITING:
        return "has yet to begin"
    return f"works: {document['now']}" if document["now"] else "works"


def _waits_for(paths: Paths, document: Mapping[str, Any]) -> str:
    """Return why nothing happens, in words; "" where nothing stands in the way.

    Raises:
        NotRunning: the daemon is gone.
    """
    query(paths)
    agents = {agent["name"]: agent for agent in overview(paths)["agents"]}
    waits = agents.get(document["agent"], {}).get("waits_for")
    if waits and not document["asks"]:
        return f"waits for {waits}"
    return f"tries again: {document['problem']}" if document["problem"] else ""


def _print(document: Mapping[str, Any]) -> None:
    name, answer = plain(str(document["agent"])), document["answer"]
    if answer is not None:
        if answer["title"]:
            say(colour(plain(answer["title"]), BOLD))
        say_lines(unescaped(answer["text"]))
        say(colour(f'agentd ask --thread {document["id"]} "..." asks on', DIM), file=sys.stderr)
    elif document["state"] == FAILED:
        note(f"{name} failed: {document['problem']}", f"question {document['id']}: `agentd dead`")
    else:
        say(f"question {document['id']}: {name} {plain(_state(document))}")
        say(f"`agentd ask --show {document['id']}` shows its answer")
