"""`agentd sessions`: what the agents did, session by session, and turn by turn."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.clock import iso
from agentd.commands.home import check_known, open_bus
from agentd.commands.numbers import count, whole
from agentd.commands.output import (
    BOLD,
    colour,
    compact,
    duration,
    local,
    plain,
    print_json,
    print_table,
    say,
    say_lines,
)
from agentd.commands.timeline import print_timeline
from agentd.errors import UsageError
from agentd.paths import discover
from agentd.sessions.session import History
from agentd.sessions.sessions import SessionRow, Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import Exit, SessionState

EXAMPLES = """example:
  agentd sessions --agent repo_review --state failed
  agentd sessions show 7
  agentd sessions show 7 --turn 2     # the exact prompt of that turn

A session is one run of an agent's loop for one event. A running one that no process holds was
cut off, and is resumed. Exits 1 for an unknown agent. A parked one waits for a person's answer:
  agentd send person.answer '{"session": 7, "answer": "yes"}' --to NAME

--json prints a list of id, agent, event_id, event_type, version, state (running, ended, failed,
parked), forced (why Done was the only decision left, or null), attempt, started_at, ended_at (UTC),
question, outcome, error, turns, prompt_tokens, completion_tokens; for `show` one such object with
steps: seq, kind (opening, decision, result, note), type, payload, ts, trusted, idempotent, tokens,
duration_ms, raw (the model's answer), context_tokens, allowed; with --turn the list of messages."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    states = [state.value for state in SessionState]
    parser.add_argument(
        "action", nargs="?", choices=("list", "show"), default="list", help="default: list"
    )
    parser.add_argument("id", nargs="?", type=whole, metavar="ID", help="show: the session's id")
    parser.add_argument(
        "--turn", type=count, metavar="N", help="show: print the exact prompt of that turn"
    )
    parser.add_argument("--agent", metavar="NAME", help="list: only this agent's")
    parser.add_argument("--state", choices=states, help="list: only those in this state")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="list: at most N (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """List sessions, or show one."""
    if (args.id is None) == (args.action == "show"):
        args.fail("show needs an ID" if args.id is None else "list takes no ID")
    if args.turn is not None and args.action != "show":
        args.fail("--turn is for show")
    paths = discover()
    bus = open_bus(paths)
    sessions = Sessions(bus)
    if args.action == "show":
        history = sessions.history(args.id)
        row, steps = history.row, history.steps
        if args.turn is not None:
            _prompt(history, args.turn, as_json=args.json)
        elif args.json:
            print_json({**document(row), "steps": [step_document(step) for step in steps]})
        else:
            _show(row, steps, history.basis)
        return Exit.OK
    state = SessionState(args.state) if args.state else None
    rows = sessions.list(agent=args.agent, state=state, limit=args.limit)
    if args.agent is not None and not rows and not sessions.list(agent=args.agent, limit=1):
        check_known(args.agent, paths, bus)
    if args.json:
        print_json([document(row) for row in rows])
    elif not rows:
        say("no sessions")
    else:
        _list(rows)
    return Exit.OK


def _prompt(history: History, turn: int, *, as_json: bool) -> None:
    """Print the exact messages that the model was asked with at a turn."""
    from agentd.replay.recording import prompt_at, texts_of

    where = f"session {history.row.id}: turn {turn}"
    turns = sum(step.kind is StepKind.DECISION for step in history.steps)
    if not 1 <= turn <= turns:
        raise UsageError(f"it has turns 1 to {turns}" if turns else "it has no turns", where=where)
    if not history.basis:
        raise UsageError("its prompt is not kept: it ran on an older agentd", where=where)
    messages = prompt_at(turn, history.basis["prompt"], history.steps, texts_of(history.steps))
    if as_json:
        print_json(messages)
        return
    for message in messages:
        say(colour(f"[{message['role']}]", BOLD))
        say_lines(message["content"])


def document(row: SessionRow) -> dict[str, Any]:
    """Return a session as --json shows it."""
    return {
        **vars(row),
        "state": row.state.value,
        "forced": row.forced,
        "started_at": iso(row.started_at),
        "ended_at": row.ended_at and iso(row.ended_at),
    }


def step_document(step: Step) -> dict[str, Any]:
    """Return a step as --json shows it."""
    publish = [{"event_type": e.event_type, "payload": e.payload} for e in step.publish]
    return {**vars(step), "kind": step.kind.value, "ts": iso(step.ts), "publish": publish}


def _list(rows: Sequence[SessionRow]) -> None:
    print_table(
        ("ID", "STARTED", "AGENT", "EVENT", "STATE", "TURNS", "TOKENS", "TOOK", "OUTCOME"),
        (
            (
                row.id,
                local(row.started_at),
                row.agent,
                f"{row.event_id} {row.event_type}",
                row.shown_state,
                row.turns,
                f"{row.prompt_tokens}+{row.completion_tokens}",
                _took(row),
                _outcome(row),
            )
            for row in rows
        ),
    )


def _took(row: SessionRow) -> str | None:
    if row.ended_at is None:
        return None
    return duration((row.ended_at - row.started_at).total_seconds())


def _outcome(row: SessionRow) -> str | None:
    if row.error is not None:
        return row.error.splitlines()[0] if row.error else "failed"
    if row.question is not None:
        return f"asks: {row.question}"
    return None if row.outcome is None else compact(row.outcome)


def _show(row: SessionRow, steps: Sequence[Step], basis: Mapping[str, Any]) -> None:
    say(
        colour(f"session {row.id}", BOLD)
        + f" of {row.agent}: {plain(row.shown_state)}, attempt {row.attempt}"
    )
    say(f"answers event {row.event_id} {plain(row.event_type)}, version {row.version}")
    say(f"started {local(row.started_at)}, ended {local(row.ended_at)}")
    print_timeline(steps, basis)
    if steps and (row.error or row.question or row.outcome is not None):
        say()
        say(f"{colour(row.shown_state, BOLD)}: {_outcome(row) or ''}")
    if row.question is not None:
        answer = f"""'{{"session": {row.id}, "answer": "..."}}'"""
        say(f"answer it: agentd send person.answer {answer} --to {row.agent}")
