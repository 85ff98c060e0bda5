"""One agent in detail, for people: what `agentd status NAME` prints."""

from collections.abc import Mapping
from typing import Any

from agentd.commands.output import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    colour,
    compact,
    duration,
    local,
    print_facts,
    say,
    say_lines,
)
from agentd.logs.newest import newest
from agentd.logs.view import render
from agentd.paths import Paths
from agentd.states import WorkerState

LOG_LINES = 8
LOG_BYTES = 512 * 1024  # that are read for them: an agent may have logged nothing for long
_COLOURS = {
    WorkerState.RUNNING: GREEN,
    WorkerState.STARTING: GREEN,
    WorkerState.PARKED: RED,
    WorkerState.INVALID: RED,
    WorkerState.BACKOFF: YELLOW,
    WorkerState.WAITING: YELLOW,
    WorkerState.PAUSED: YELLOW,
    WorkerState.STOPPED: DIM,
    "UNKNOWN": RED,
}


def state_colour(state: str) -> str:
    """Return the colour of a state, "" for none."""
    return _COLOURS.get(state, "")


def memory(size: int | None) -> str | None:
    """Render bytes of memory."""
    return None if size is None else f"{size / 1e6:.0f} MB"


def percent(share: float | None) -> str | None:
    """Render a share of one core."""
    return None if share is None else f"{share:.0f}%" if share >= 10 else f"{share:.1f}%"


def short_s(seconds: float) -> str | None:
    """Render a time that was used, None for none."""
    return duration(seconds) if seconds else None


def print_agent(agent: Mapping[str, Any]) -> None:
    """Print one agent of an `overview`."""
    text = colour(agent["state"], state_colour(agent["state"]) or BOLD)
    say(f"{colour(agent['name'], BOLD)}  {text}")
    result = agent["last_result"]
    facts = {
        "waits for": agent["waits_for"],
        "pid": agent["pid"],
        "since": local(agent["since"]),
        "restarts": agent["restarts"],
        "reason": agent["reason"],
        "paused": "yes" if agent["paused"] else "no",
        "cpu": percent(agent["cpu_percent"]),
        "memory": memory(agent["memory_bytes"]),
        "model": (used := short_s(agent["model_s"])) and f"{used} in the last hour",
        "subscribes": ", ".join(agent["subscribe"]),
        **_trigger_facts(agent["triggers"]),
        "waiting": "{direct} addressed to it, {subscribed} by subscription".format(
            **agent["waiting"]
        ),
        "session": _session(agent["last_session"]),
        "result": result and f"{result['id']} {local(result['created_at'])} {result['title']}",
        "dead": agent["dead_letters"],
        "asks you": agent["asks"] or None,
        "labels": agent["labels"],
    }
    beat = agent.get("beat")
    if beat:
        facts["says"] = compact({k: v for k, v in beat.items() if k != "promise_s"})
    print_facts(facts, indent=2, width=10)
    print_problem(agent["problem"], (agent["held"] or {}).get("until"))


def print_log(name: str, paths: Paths) -> None:
    """Print the last lines that an agent logged, or the daemon about it."""
    if lines := newest(paths, [name], limit=LOG_LINES, bytes_max=LOG_BYTES).lines:
        say()
        say(colour(f"the last of its log; `agentd logs -f {name}` goes on", DIM))
        for line in reversed(lines[:LOG_LINES]):
            say_lines(render(line))


def print_problem(problem: Mapping[str, str] | None, until: str | None = None) -> None:
    """Print a problem; `until`: when it is tried again."""
    if problem:
        facts = {key: problem.get(key) for key in ("where", "what", "hint")}
        facts["next try"] = until and local(until)
        print_facts(facts, indent=2, width=10)


def _session(session: Mapping[str, Any] | None) -> str | None:
    if session is None:
        return None
    return (
        f"{session['id']} {session['state']} {local(session['ended_at'] or session['started_at'])}"
    )


def _trigger_facts(triggers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what wakes it, without what does not."""
    batch = triggers["batch"]
    at = [f"{one['at']} (over)" if one["over"] else one["at"] for one in triggers["at"]]
    facts = {
        "schedule": triggers["schedule"],
        "at": ", ".join(at),
        "next run": triggers["next"] and local(triggers["next"]),
        "watches": ", ".join(triggers["watch"]),
        "but": triggers["watch_problem"],
        "where": compact(triggers["where"]) if triggers["where"] else None,
        "batch": batch and f"at most {batch['most']} events, within {batch['within']}",
        "later": "; ".join(f"{local(one['due'])} {one['what']}" for one in triggers["later"]),
    }
    return {key: value for key, value in facts.items() if value}
