"""`agentd sessions`: what the agents did, session by session, and turn by turn."""

import argparse
from collections.abc import Sequence
from typing import Any

from agentd.clock import iso
from agentd.commands.home import open_bus
from agentd.commands.numbers import count, whole
from agentd.commands.output import (
    BOLD,
    DIM,
    colour,
    compact,
    duration,
    local,
    plain,
    print_json,
    print_table,
)
from agentd.paths import discover
from agentd.sessions.sessions import SessionRow, Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import Exit, SessionState

EXAMPLES = """example:
  agentd sessions --agent repo_review --state failed
  agentd sessions show 7

A session is one run of an agent's loop for one event. A running one that no process holds was
cut off, and is resumed. A parked one waits for a person's answer:
  agentd send person.answer '{"session": 7, "answer": "yes"}' --to NAME

--json prints a list of id, agent, event_id, event_type, version, state (running, ended, failed,
parked), attempt, started_at, ended_at (UTC), question, outcome, error, turns, prompt_tokens,
completion_tokens; for `show` one such object with steps: seq, kind (opening, decision, result,
note), type, payload, ts, trusted, idempotent, tokens, duration_ms, raw (the model's answer)."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    states = [state.value for state in SessionState]
    parser.add_argument(
        "action", nargs="?", choices=("list", "show"), default="list", help="default: list"
    )
    parser.add_argument("id", nargs="?", type=whole, metavar="ID", help="show: the session's id")
    parser.add_argument("--agent", metavar="NAME", help="list: only this agent's")
    parser.add_argument("--state", choices=states, help="list: only those in this state")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="list: at most N (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """List sessions, or show one."""
    if (args.id is None) == (args.action == "show"):
        args.fail("show needs an ID" if args.id is None else "list takes no ID")
    sessions = Sessions(open_bus(discover()))
    if args.action == "show":
        row, steps = sessions.show(args.id)
        if args.json:
            print_json({**document(row), "steps": [_step_document(step) for step in steps]})
        else:
            _show(row, steps)
        return Exit.OK
    state = SessionState(args.state) if args.state else None
    rows = sessions.list(agent=args.agent, state=state, limit=args.limit)
    if args.json:
        print_json([document(row) for row in rows])
    elif not rows:
        print("no sessions")
    else:
        _list(rows)
    return Exit.OK


def document(row: SessionRow) -> dict[str, Any]:
    """Return a session as --json shows it."""
    return {
        **vars(row),
        "state": row.state.value,
        "started_at": iso(row.started_at),
        "ended_at": row.ended_at and iso(row.ended_at),
    }


def _step_document(step: Step) -> dict[str, Any]:
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
                row.state.value,
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


def _show(row: SessionRow, steps: Sequence[Step]) -> None:
    print(
        colour(f"session {row.id}", BOLD)
        + f" of {row.agent}: {row.state.value}, attempt {row.attempt}"
    )
    print(f"answers event {row.event_id} {plain(row.event_type)}, version {row.version}")
    print(f"started {local(row.started_at)}, ended {local(row.ended_at)}")
    turn = 0
    for step in steps:
        turn += step.kind is StepKind.DECISION
        head = f"turn {turn} decision" if step.kind is StepKind.DECISION else step.kind.value
        facts = [] if step.trusted else ["untrusted"]
        if step.prompt_tokens is not None:
            facts.append(
                f"{step.prompt_tokens} prompt tokens, {step.cached_tokens or 0} of them cached,"
                f" {step.completion_tokens} decided"
            )
        if step.duration_ms is not None:
            facts.append(duration(step.duration_ms / 1000))
        aside = colour(f"  ({'; '.join(facts)})", DIM) if facts else ""
        print(f"\n{colour(head, BOLD)}  {local(step.ts)}  {plain(step.type)}{aside}")
        print(f"  {compact(step.payload)}")
        for event in step.publish:
            print(f"  publishes {plain(event.event_type)} {compact(event.payload)}")
        if step.remember:
            print(f"  remembers {compact(step.remember)}")
    if steps and (row.error or row.question or row.outcome is not None):
        print(f"\n{colour(row.state.value, BOLD)}: {plain(_outcome(row) or '')}")
    if row.question is not None:
        answer = f"""'{{"session": {row.id}, "answer": "..."}}'"""
        print(f"answer it: agentd send person.answer {answer} --to {row.agent}")
