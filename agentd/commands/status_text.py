"""The daemon and all its agents, for people: what `agentd status` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.commands.agent_text import memory, percent, print_problem, short_s, state_colour
from agentd.commands.deliver import way_lines
from agentd.commands.fitted_table import FittedColumn, print_fitted
from agentd.commands.output import BOLD, DIM, RED, YELLOW, colour, local, plain, say
from agentd.states import WorkerState
from agentd.terminal import terminal_width

# What it binds, in a line.
BOUND = "[permissions] bind model and tools; an agent's own Python has the worker's sandbox"
OVERLOOKED_SHOWN = 5


def print_status(document: Mapping[str, Any]) -> None:
    """Print an `overview`."""
    _print_daemon(document)
    if document["problem"]:
        say(colour("the configuration cannot be used, the one before it holds on", YELLOW))
        print_problem(document["problem"])
    print_problem(document["refused_folder"])
    if document["model"]:
        say(f"model  {_model(document['model'])}")
        print_problem(document["model"].get("problem"))
    if sandbox := document["sandbox"]:
        whole = sandbox["level"] == "full"
        text = plain(f"{sandbox['level']}: {sandbox['why']}")
        say(f"sandbox  {f'full: {BOUND}' if whole else colour(text, YELLOW)}")
    if document["workers"]:
        print_problem(document["workers"]["problem"])
    say(f"bus    {_bus(document)}")
    print_problem((document["storage"] or {}).get("problem"))
    if document["deliver"]:
        for line in way_lines(document["deliver"]):
            say(f"sends  {line}")
    if (page := document["ui"]) and page["kept"]:
        say(f"page   {page['url']}  {page['state']}: `agentd ui` opens it")
        print_problem(page["problem"])
    if document["asks"]:
        say(colour(f"asks   {document['asks']} for your answer: `agentd answer`", YELLOW))
    if document["agents"]:
        _print_agents(document)
    else:
        say("no agents: `agentd new` makes one, `agentd enable NAME` turns one on")
    for item in document["overlooked"][:OVERLOOKED_SHOWN]:
        say(colour("\nnot read", YELLOW))
        print_problem(item)
    if (more := len(document["overlooked"]) - OVERLOOKED_SHOWN) > 0:
        say(colour(f"and {more} more that are not read: `agentd check`", YELLOW))


def _print_daemon(document: Mapping[str, Any]) -> None:
    if document["answers"]:
        parts = [f"runs, pid {document['pid']}, since {local(document['since'])}"]
        took = memory(document.get("memory_bytes"))
        say(f"agentd {document['version']} {', '.join((*parts, took) if took else parts)}")
    elif document["running"]:
        say(colour("agentd runs but does not answer", RED))
    else:
        say(f"{colour('agentd is not running', YELLOW)}: start it with `agentd run`")
    if document["failure"]:
        say(colour("the last run failed", RED))
        print_problem(document["failure"])
    say(f"home   {document['home']}")


def _print_agents(document: Mapping[str, Any]) -> None:
    say()
    # What is off comes last: of a table that is cut off below, it is missed least.
    shown = sorted(document["agents"], key=lambda agent: agent["state"] == WorkerState.STOPPED)
    print_fitted(_columns(shown), terminal_width())
    if document["refused_unshown"]:
        more = f"and {document['refused_unshown']} more files that are refused: `agentd check`"
        say(colour(more, YELLOW))
    for agent in document["agents"]:
        if agent["problem"] and agent.get("enabled", True):
            say()
            say(colour(agent["name"], BOLD))
            print_problem(agent["problem"], (agent["held"] or {}).get("until"))


def _columns(agents: Sequence[Mapping[str, Any]]) -> list[FittedColumn]:
    """Return what the table shows; what matters least goes first where it is narrow."""

    def column(
        head: str, key: str, show: Any = lambda value: value, leave: int = 0, least: int = 0
    ) -> FittedColumn:
        return FittedColumn(head, [show(agent[key]) for agent in agents], (), leave, least)

    states = [agent["state"] for agent in agents]
    dim = [DIM if state == WorkerState.STOPPED else "" for state in states]
    names = [agent["name"] for agent in agents]
    return [
        FittedColumn("AGENT", names, dim, least=24),
        FittedColumn("STATE", states, [*map(state_colour, states)]),
        column("PID", "pid", leave=8),
        column("SINCE", "since", local, leave=7),
        column("RESTARTS", "restarts", lambda count: count or None, leave=6),
        column("WAITING", "waiting", lambda lanes: "{direct}+{subscribed}".format(**lanes)),
        column("DEAD", "dead_letters", lambda count: count or None, leave=1),
        column("CPU", "cpu_percent", percent, leave=4),
        column("MEMORY", "memory_bytes", memory, leave=3),
        column("MODEL", "model_s", short_s, leave=5),
        column("NEXT RUN", "next_run", lambda run: local(run) if run else None, leave=2),
        column("LAST RESULT", "last_result", lambda one: one and one["title"], 1, least=16),
        FittedColumn("WAITS FOR", [*map(_waits, agents)], dim, leave=1, least=24),
    ]


def _waits(agent: Mapping[str, Any]) -> str | None:
    return agent["waits_for"] or ("its check" if agent.get("checking") else None)


def _bus(document: Mapping[str, Any]) -> str:
    parts = [f"last event {document['last_event_id']}", f"{document['dead_letters']} dead letters"]
    storage = document["storage"] or {}
    if size := storage.get("database_bytes"):
        parts.append(f"{(size + storage['wal_bytes']) / 1e6:.1f} MB")
    if storage.get("problem"):
        parts.append(colour("has a problem:", RED))
    return ", ".join(parts)


def _model(model: Mapping[str, Any]) -> str:
    labels, state = model.get("labels"), str(model.get("state", ""))
    use = [memory(model.get("memory_bytes")), percent(model.get("cpu_percent"))]
    parts = (
        *(plain(str(model.get("name", ""))), colour(plain(state), state_colour(state) or BOLD)),
        *(plain(str(model[key])) for key in ("url", "reason") if model.get(key)),
        labels and f"labels: {plain(labels)}",
        ", ".join(part for part in use if part),
    )
    return "  ".join(part for part in parts if part)
