"""`agentd status`: the supervisor's own view, merged with what the bus says of each agent."""

import argparse
from collections.abc import Mapping
from typing import Any

from agentd.commands.deliver import way_lines
from agentd.commands.home import no_such_agent
from agentd.commands.output import (
    BOLD,
    GREEN,
    RED,
    YELLOW,
    colour,
    compact,
    local,
    note,
    plain,
    print_facts,
    print_json,
    print_table,
    say,
)
from agentd.commands.triggers import lines
from agentd.errors import AgentdError
from agentd.paths import discover
from agentd.states import Exit, WorkerState
from agentd.views.overview import overview

EXAMPLES = (
    """example:
  agentd status
  agentd status repo_review
  agentd status --json | jq '.agents[] | select(.state != "RUNNING")'

STATE of an agent:
"""
    + "".join(f"  {state.value:8}  {state.meaning}\n" for state in WorkerState)
    + """  UNKNOWN   the daemon does not answer

WAITING counts the events that wait for an agent: addressed to it + by subscription.
Exits 0 when the daemon runs, 3 when it does not (what the database knows is still shown), 1 when it
does not answer and for an unknown NAME.

--json prints one object: running, answers, home, pid, since, version, silence (why a daemon that is
there does not answer), problem (of agentd.toml, or of agents.d itself), refused_folder (a problem
where macOS keeps agentd out of one), failure (why the last run ended, if it failed), storage
{problem, database_bytes, wal_bytes, free_bytes}, overlooked (files in your folders that are not
read for their name or place: [{where, what, hint}]), model {name, url, state, reason, problem,
labels, ...}, refused_unshown (wrong files beyond those listed), sandbox {level, why, wanted}
("full", "partial" or "checks", which is none; why it is not full; [sandbox] level of agentd.toml),
deliver (null: results are sent nowhere; else its process, with the ways in beat.ways: see `agentd
deliver`), watcher (null where no agent watches a folder, else state, pid, problem, agents, and in
beat: problems by agent, notices), last_event_id, dead_letters, asks (how much waits for your
answer), and agents: name, state, pid, since, restarts, reason, problem (null or {what, where,
hint}), paused, subscribe, waiting {direct, subscribed}, last_session (null or {id, state,
started_at, ended_at}), labels, dead_letters, asks, held (null or {reason, until, hint}: why its
events do not get on), waits_for (what holds it up, in words, or null), next_run, last_result (null
or {id, title, created_at}; of the newest 20,000 events), model_s (seconds that a model worked for
it in the last hour), cpu_percent (of one core, now), memory_bytes, triggers {schedule, next (run,
UTC), at [{at, over}], watch, watch_problem, where, batch {within, most}, missed, later [{id, agent,
due, what}]}, and while the daemon runs also version, enabled, beat and more. Times are UTC.

`labels`, of the model and of each agent: how labels are taken. "offsets": without the model's own
bias; "logprobs": likewise, by what an external server tells; "greedy": as the model prefers them;
null: not known yet."""
)

# What it binds, in a line.
BOUND = "[permissions] bind model and tools; an agent's own Python has the worker's sandbox"
OVERLOOKED_SHOWN = 5
COLOURS = {
    WorkerState.RUNNING: GREEN,
    WorkerState.PARKED: RED,
    WorkerState.INVALID: RED,
    WorkerState.BACKOFF: YELLOW,
    WorkerState.WAITING: YELLOW,
    WorkerState.PAUSED: YELLOW,
}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this agent, in detail")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the state of all, or of one agent."""
    document = overview(discover())
    if document["silence"]:
        note(*AgentdError(**document["silence"]).lines())
    agents = {agent["name"]: agent for agent in document["agents"]}
    if args.name is not None and args.name not in agents:
        raise no_such_agent(args.name, agents)
    if args.json:
        print_json(document if args.name is None else agents[args.name])
    elif args.name is not None:
        _print_agent(agents[args.name])
    else:
        _print(document)
    if not document["running"]:
        return Exit.NOT_RUNNING
    return Exit.OK if document["answers"] else Exit.FAILED


def _print(document: Mapping[str, Any]) -> None:
    if document["answers"]:
        since = local(document["since"])
        say(f"agentd {document['version']} runs, pid {document['pid']}, since {since}")
    elif document["running"]:
        say(colour("agentd runs but does not answer", RED))
    else:
        say(f"{colour('agentd is not running', YELLOW)}: start it with `agentd run`")
    if document["failure"]:
        say(colour("the last run failed", RED))
        _print_problem(document["failure"])
    say(f"home   {document['home']}")
    if document["problem"]:
        say(colour("the configuration cannot be used, the one before it holds on", YELLOW))
        _print_problem(document["problem"])
    _print_problem(document["refused_folder"])
    if document["model"]:
        say(f"model  {_model(document['model'])}")
        _print_problem(document["model"].get("problem"))
    if sandbox := document["sandbox"]:
        whole = sandbox["level"] == "full"
        text = plain(f"{sandbox['level']}: {sandbox['why']}")
        say(f"sandbox  {f'full: {BOUND}' if whole else colour(text, YELLOW)}")
    say(f"bus    {_bus(document)}")
    _print_problem((document["storage"] or {}).get("problem"))
    if document["deliver"]:
        for line in way_lines(document["deliver"]):
            say(f"sends  {line}")
    if document["asks"]:
        say(colour(f"asks   {document['asks']} for your answer: `agentd answer`", YELLOW))
    if document["agents"]:
        _print_agents(document)
    else:
        say(
            "no agents: put a TOML file into the folder that `agentd paths agents_d` says,"
            " or set enabled = true in one"
        )
    for item in document["overlooked"][:OVERLOOKED_SHOWN]:
        say(colour("\nnot read", YELLOW))
        _print_problem(item)
    if (more := len(document["overlooked"]) - OVERLOOKED_SHOWN) > 0:
        say(colour(f"and {more} more that are not read: `agentd check`", YELLOW))


def _print_agents(document: Mapping[str, Any]) -> None:
    say()
    print_table(
        ("AGENT", "STATE", "PID", "SINCE", "RESTARTS", "WAITING", "DEAD", "LAST SESSION", "REASON"),
        (
            (
                agent["name"],
                agent["state"],
                agent["pid"],
                local(agent["since"]),
                agent["restarts"],
                "{direct}+{subscribed}".format(**agent["waiting"]),
                agent["dead_letters"],
                _session(agent["last_session"]),
                agent["reason"] or ("is being checked" if agent.get("checking") else ""),
            )
            for agent in document["agents"]
        ),
    )
    if document["refused_unshown"]:
        more = f"and {document['refused_unshown']} more files that are refused: `agentd check`"
        say(colour(more, YELLOW))
    for agent in document["agents"]:
        if agent["problem"] and agent.get("enabled", True):
            say()
            say(colour(agent["name"], BOLD))
            _print_problem(agent["problem"])


def _print_agent(agent: Mapping[str, Any]) -> None:
    text = colour(agent["state"], COLOURS.get(agent["state"], BOLD))
    say(f"{colour(agent['name'], BOLD)}  {text}")
    facts = {
        "pid": agent["pid"],
        "since": local(agent["since"]),
        "restarts": agent["restarts"],
        "reason": agent["reason"],
        "paused": "yes" if agent["paused"] else "no",
        "subscribes": ", ".join(agent["subscribe"]),
        **lines(agent["triggers"]),
        "waiting": "{direct} addressed to it, {subscribed} by subscription".format(
            **agent["waiting"]
        ),
        "session": _session(agent["last_session"]),
        "dead": agent["dead_letters"],
        "asks you": agent["asks"] or None,
        "labels": agent["labels"],
    }
    beat = agent.get("beat")
    if beat:
        facts["says"] = compact({k: v for k, v in beat.items() if k != "promise_s"})
    print_facts(facts, indent=2, width=10)
    _print_problem(agent["problem"])


def _print_problem(problem: Mapping[str, str] | None) -> None:
    if problem:
        facts = {key: problem.get(key) for key in ("where", "what", "hint")}
        print_facts(facts, indent=2, width=10)


def _session(session: Mapping[str, Any] | None) -> str | None:
    if session is None:
        return None
    return (
        f"{session['id']} {session['state']} {local(session['ended_at'] or session['started_at'])}"
    )


def _bus(document: Mapping[str, Any]) -> str:
    parts = [f"last event {document['last_event_id']}", f"{document['dead_letters']} dead letters"]
    storage = document["storage"] or {}
    if size := storage.get("database_bytes"):
        parts.append(f"{(size + storage['wal_bytes']) / 1e6:.1f} MB")
    if storage.get("problem"):
        parts.append(colour("has a problem:", RED))
    return ", ".join(parts)


def _model(model: Mapping[str, Any]) -> str:
    labels = model.get("labels")
    parts = (
        *(model.get("name"), model.get("state"), model.get("url"), model.get("reason")),
        labels and f"labels: {labels}",
    )
    return plain("  ".join(str(part) for part in parts if part))
