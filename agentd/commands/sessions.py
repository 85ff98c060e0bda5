"""`agentd sessions`: what the agents did, session by session, and turn by turn."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.commands import row_filter
from agentd.commands.fitted_table import print_table
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import (
    BOLD,
    DIM,
    colour,
    compact,
    count,
    duration,
    local,
    plain,
    print_json,
    say,
    say_lines,
    whole,
)
from agentd.commands.row_filter import RowFilter, paged
from agentd.paths import discover
from agentd.sessions.archive import Archive, History, SessionRow
from agentd.sessions.steps import Step, StepKind
from agentd.states import Exit, SessionState
from agentd.views.session_turns import prompt_of, session_fields, step_fields

EXAMPLES = """example:
  agentd sessions --agent repo_review --state failed
  agentd sessions show 7
  agentd sessions show 7 --turn 2     # the exact prompt of that turn

A session is one run of an agent's loop for one event. A running one that no process holds was
cut off, and is resumed. Exits 1 for an unknown agent. A parked session waits for a person's answer
(a parked agent, in `agentd status`, is something else: it gave up): `agentd answer` shows what for.

--json prints a list of id, agent, event_id, event_type, version, state (running, ended, failed,
parked), forced (why Done was the only decision left, or null), attempt, started_at, ended_at (UTC),
question, outcome, error, turns, prompt_tokens, completion_tokens; for `show` one such object with
steps: seq, kind (opening, decision, result, note; where a yes is needed: asked, granted, denied,
started), type, payload, ts, trusted, idempotent, publish, remember, prompt_tokens, cached_tokens,
completion_tokens, duration_ms, raw (the model's answer), active_s, attempt, counts (what the
tokenizer said), allowed, finish_reason, context_tokens, labels (by field: how one was taken,
log-probabilities, offsets, margin), asks (it needs a yes), scored (heads, items, values), planned
(by the agent, without a model), about (all that the model saw of the log), candidates (what could
stand in a field), whole (a planned result, where the model saw less); with --turn the list of
messages."""


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
    parser.add_argument("--agent", metavar="NAME", help="list: only what this agent worked on")
    parser.add_argument("--state", choices=states, help="list: only those in this state")
    row_filter.arguments(parser, limit=20, of="list")
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
    archive = Archive(bus)
    if args.action == "show":
        history = archive.history(args.id)
        row, steps = history.row, history.steps
        if args.turn is not None:
            _prompt(history, args.turn, as_json=args.json)
        elif args.json:
            print_json({**session_fields(row), "steps": [step_fields(step) for step in steps]})
        else:
            _show(row, steps, history.basis)
        return Exit.OK
    state = SessionState(args.state) if args.state else None
    wanted = RowFilter.of(args)
    asked = {"agent": args.agent, "state": state, **wanted.span, "limit": wanted.page}
    read = paged(lambda before: archive.list(before=before, **asked), lambda row: row.id)
    rows = list(wanted.first(read, session_fields))
    if args.agent is not None and not rows and not archive.list(agent=args.agent, limit=1):
        check_known(args.agent, paths, bus)
    if args.json:
        print_json([session_fields(row) for row in rows])
    elif not rows:
        say("no such sessions" if wanted.narrows else "no sessions")
    else:
        _list(rows)
    return Exit.OK


def _prompt(history: History, turn: int, *, as_json: bool) -> None:
    """Print the exact messages that the model was asked with at a turn."""
    messages = prompt_of(history, turn)
    if as_json:
        print_json(messages)
        return
    for message in messages:
        say(colour(f"[{message['role']}]", BOLD))
        say_lines(message["content"])


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
        leave={"STARTED": 1, "TOOK": 2, "TURNS": 3, "TOKENS": 4},
        least={"AGENT": 12, "EVENT": 16, "OUTCOME": 16},
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
        say("`agentd answer` shows all of it, and answers it")


BAR_CHARACTERS = 25


def print_timeline(steps: Sequence[Step], basis: Mapping[str, Any], turn: int = 0) -> None:
    """Print the steps that come after `turn` turns.

    `basis` is what the session depended on; empty where that is not known.
    """
    window = basis.get("window")
    share = basis.get("config", {}).get("limits", {}).get("context_share", 0.4)
    if window:
        say(f"{plain(str(basis['model']))}: window {window} tokens, {int(window * share)} to use")
    for step in steps:
        turn += step.kind is StepKind.DECISION
        say()
        say(_head(step, turn))
        say(f"  {compact(step.payload)}")
        if step.about is not None:
            say(f"  about {compact(step.about)}")
        elif step.context_tokens is not None and window and not step.planned:
            say(colour(f"  {context_bar(step.context_tokens, window, share)}", DIM))
        for event in step.publish:
            say(f"  publishes {plain(event.event_type)} {compact(event.payload)}")
        if step.remember:
            say(f"  remembers {compact(step.remember)}")


def _head(step: Step, turn: int) -> str:
    decision = step.kind is StepKind.DECISION
    head = step.kind.value
    if decision:
        head = f"turn {turn} {'plan' if step.planned else 'decision'}"
    facts = [] if step.trusted else ["untrusted"]
    if step.attempt > 1:
        facts.append(f"attempt {step.attempt}")
    if step.allowed is not None:
        facts.append(f"of {', '.join(step.allowed)} alone")
    if step.finish_reason != "stop":
        facts.append(f"finish: {step.finish_reason}")
    if step.prompt_tokens is not None and not step.planned:
        facts.append(
            f"{step.prompt_tokens} prompt tokens, {step.cached_tokens or 0} of them cached,"
            f" {step.completion_tokens} decided"
        )
    for name, about in step.labels.items():
        if "margin" in about:
            unsure = ", unsure" if about.get("unsure") else ""
            facts.append(f"{name} by a margin of {about['margin']:.2f}{unsure}")
    if step.duration_ms is not None and not step.planned:
        facts.append(duration(step.duration_ms / 1000))
    aside = colour(f"  ({plain('; '.join(facts))})", DIM) if facts else ""
    return f"{colour(head, BOLD)}  {local(step.ts)}  {plain(step.type)}{aside}"


def context_bar(tokens: int, window: int, share: float) -> str:
    """Return how full the window was; the `|` marks what may be used of it."""
    filled = min(BAR_CHARACTERS, round(BAR_CHARACTERS * tokens / window))
    bar = ["#" if at < filled else "." for at in range(BAR_CHARACTERS)]
    mark = min(BAR_CHARACTERS, round(BAR_CHARACTERS * share))
    bar.insert(mark, "|")
    return f"context [{''.join(bar)}] {tokens} tokens, {100 * tokens / window:.0f} % of the window"
