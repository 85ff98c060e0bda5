"""`agentd deliver`: where results are sent, how that goes, and a test by each way."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import open_bus
from agentd.commands.output import GREEN, RED, YELLOW, colour, local, plain, print_json, say
from agentd.errors import NotRunning
from agentd.events import DELIVER, PERSON, TEST, NewEvent
from agentd.paths import discover
from agentd.process.until import until
from agentd.states import Exit, Priority, WorkerState
from agentd.terminal import counted
from agentd.views.daemon_state import daemon_state

EXAMPLES = """example:
  agentd deliver            # each way: how it goes, what is held back, and why
  agentd deliver test       # a message by each way, now, and what came of it

Where results go stands in the tables [deliver.*] of agentd.toml. Without one, `agentd results`
shows them all the same. A test is sent in quiet hours as well.
Exits 1 where a way fails, 3 where the daemon does not run.

--json prints {way: {state, held, why, last, lost, problem}}; of a test {way: null or a problem}."""

BEGIN_S = 10.0  # for its process to say how its ways are
BEGINS = (WorkerState.STARTING, WorkerState.RUNNING)
TEST_S = 60.0  # for all ways to have tried
LOOK_S = 0.2
COLOURS = {"ok": GREEN, "held": YELLOW, "waits": YELLOW, "failed": RED}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("action", nargs="?", choices=("test",), help="send a test by each way")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Show the ways, or try them."""
    paths = discover()
    for _ in until(BEGIN_S, LOOK_S):
        daemon = daemon_state(paths)
        if daemon is None:
            raise NotRunning("the daemon does not run", hint="start it: `agentd run`")
        deliver = daemon.get("deliver")
        ways = ways_of(deliver)
        if ways or deliver is None or deliver["state"] not in BEGINS:
            break
    if args.action == "test":
        return _test(open_bus(paths, writes=True), ways, as_json=args.json)
    if args.json:
        print_json(ways)
    else:
        for line in way_lines(deliver):
            say(line)
    return Exit.FAILED if any(way["state"] == "failed" for way in ways.values()) else Exit.OK


def ways_of(deliver: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return each way, by its name, as the process last said it."""
    found = ((deliver or {}).get("beat") or {}).get("ways", {})
    return dict(found) if isinstance(found, dict) else {}


def way_lines(deliver: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield in lines how each way is; that there is none is said as well."""
    if deliver is None:
        yield "nowhere: `agentd results` shows results; [deliver] in agentd.toml sends them"
        return
    if deliver["state"] != "RUNNING":
        yield colour(plain(f"{deliver['state']}: {deliver['reason']}"), YELLOW)
    elif not ways_of(deliver):
        yield colour("begins: how its ways are it has not said yet", YELLOW)
    for name, way in ways_of(deliver).items():
        state = way.get("state", "")
        parts = [colour(plain(state), COLOURS.get(state, YELLOW))]
        parts += [f"{way['held']} held back"] if way.get("held") else []
        parts += [plain(str(way["why"]))] if way.get("why") else []
        parts += [f"last {local(way['last'])}"] if way.get("last") else []
        parts += [f"{counted(way['lost'], 'event')} pruned unsent"] if way.get("lost") else []
        yield f"{plain(name)}: {', '.join(parts)}"
        problem = way.get("problem") or {}
        told = (problem.get(key) for key in ("where", "what", "hint"))
        yield from (f"  {plain(str(text))}" for text in told if text)


def _test(bus: Bus, ways: Mapping[str, Any], *, as_json: bool) -> int:
    names = [name for name in ways if name != "telegram"]  # that one listens
    if not names:
        say("there is no way to try: see [deliver] in agentd.toml")
        return Exit.FAILED
    event = NewEvent(TEST, {"ways": names}, target=DELIVER)
    event_id = bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
    found: dict[str, str | None] = {}
    for _ in until(TEST_S, LOOK_S):
        noted = bus.facts.of(DELIVER)
        told = {name: noted.get(f"test:{name}") or {} for name in names}
        found = {n: t["problem"] or None for n, t in told.items() if t.get("event") == event_id}
        if len(found) == len(names):
            break
    late = "did not try within a minute: see `agentd status`"
    found |= {name: late for name in names if name not in found}
    if as_json:
        print_json(found)
    else:
        for name, problem in found.items():
            say(f"{plain(name)}  {colour(plain(problem), RED) if problem else 'sent'}")
    return Exit.FAILED if any(found.values()) else Exit.OK
