"""`agentd correct`: what a person says would have been right is an example for `agentd eval`."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import open_bus
from agentd.commands.output import count, print_done, whole
from agentd.config.agent import TASK, load_agent
from agentd.config.agent_files import examples_file
from agentd.config.suggest import listed
from agentd.config.toml import as_text, parse_toml, read_small
from agentd.errors import ConfigError, UsageError, storage_errors
from agentd.evaluate.cases import cases_of
from agentd.events import Event
from agentd.paths import discover
from agentd.sessions.archive import Archive
from agentd.sessions.session import results_of
from agentd.states import Exit, SessionState
from agentd.task_agent.label_values import label_values
from agentd.task_agent.row_examples import example_of, params_of
from agentd.task_agent.task_params import TaskParams
from agentd.terminal import counted
from agentd.views.corrections import example_name
from agentd.whole import write_whole

EXAMPLES = """example:
  agentd correct 412 category work            # event 412 of `agentd events` is a result
  agentd correct 412 category work --row 3    # of a result with rows: the third

What the agent read of that row becomes an example in eval/NAME.toml beside your agents' files, and
`agentd eval NAME` says how many of them a model gets right: with a larger model, say, or after you
changed the instructions. Nothing else changes: the result stays as it was published. The newest
correction of a field counts. Exits 2 for a result, row, field or value that there is not.

--json prints {done: "written", agent, file, case, payload, result}."""

SESSIONS_MAX = 2_000  # of an agent that are looked through for the one that wrote a result


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("result", type=whole, metavar="ID", help="the result's event")
    parser.add_argument("field", metavar="FIELD", help="a column that the model chose")
    parser.add_argument("value", metavar="VALUE", help="what would have been right")
    parser.add_argument("--row", type=count, metavar="N", help="the row, the first is 1")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Write the example."""
    paths = discover()
    bus = open_bus(paths)
    event = bus.events.get(args.result)
    if event is None:
        raise UsageError("no such event", where=str(args.result), hint="see `agentd events`")
    where = f"event {event.id}"
    config = load_agent(paths.agents_d / f"{event.agent}.toml")
    if config.agent != TASK:
        raise UsageError(
            "is of an agent in code; its cases are written by hand",
            where=where,
            hint="agentd/evaluate/cases.py says how",
        )
    params = params_of(config)
    row = _row(event, args.row, where)
    _check_value(label_values(config), args.field, args.value, where)
    payload = _example(bus, event, params, row, (args.row or 1) - 1)
    name = example_name(event.id, args.row, args.field)
    file = examples_file(event.agent, paths)
    block = (
        f"[[case]]\nname = {_toml(name)}\nevent = {_toml(event.event_type)}\n"
        f"payload = {_toml(payload)}\nresult = {_toml({args.field: args.value})}\n"
    )
    before = as_text(read_small(file), file) if file.exists() else ""
    # One that this command wrote before, in just this form; what a person wrote stays.
    old = rf"\[\[case\]\]\nname = {re.escape(_toml(name))}\n(?:(?:event|payload|result) = .*\n)*\n?"
    text = re.sub(old, "", before).rstrip("\n")
    text = f"{text}\n\n{block}" if text else block
    total = len(cases_of(parse_toml(text.encode(), file), file, paths).case)
    with storage_errors(file, "make it writable"):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(file, text)
    about = {"agent": event.agent, "file": str(file), "case": name, "payload": payload}
    print_done(
        args,
        "written",
        f"wrote {file}: {counted(total, 'example')}",
        f"how many does the model get right? agentd eval {event.agent}",
        **about,
        result={args.field: args.value},
    )
    return Exit.OK


def _row(event: Event, number: int | None, where: str) -> Mapping[str, Any]:
    rows = event.payload.get("rows")
    if not isinstance(rows, list):
        if number is not None:
            raise UsageError("has no rows", where=where, hint="leave --row out")
        return event.payload
    if number is None or number > len(rows):
        raise UsageError(f"has rows 1 to {len(rows)}", where=where, hint="say which: --row 1")
    found: Mapping[str, Any] = rows[number - 1]
    return found


def _check_value(values: Mapping[str, Sequence[str]], field: str, value: str, where: str) -> None:
    known = values.get(field)
    if known is None:
        raise UsageError(
            f"{field} is no label that the model chose",
            where=where,
            hint=f"its labels are {listed(values)}" if values else "its agent chooses none",
        )
    if value not in known:
        raise UsageError(f"{field} is never {value!r}", where=where, hint=f"it is {listed(known)}")


def _example(
    bus: Bus, event: Event, params: TaskParams, row: Mapping[str, Any], at: int
) -> dict[str, Any]:
    """Return what the agent read, from the session that published the result."""
    where = f"event {event.id}"
    archive = Archive(bus)
    rows = archive.list(agent=event.agent, state=SessionState.ENDED, limit=SESSIONS_MAX)
    session = next((one for one in rows if one.event_id == event.cause_id), None)
    history = archive.history(session.id) if session else None
    if history is None or history.event is None:
        raise UsageError(
            "its session is not kept any more", where=where, hint="correct a newer result"
        )
    try:
        return example_of(event.agent, params, history.event, results_of(history.steps), row, at)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"nobody knows what was read of it: {error}",
            where=where,
            hint="its agent's file may be another one by now; correct a newer result",
        ) from error


def _toml(value: Any) -> str:
    """Return JSON as TOML has it on one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml(key)} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
