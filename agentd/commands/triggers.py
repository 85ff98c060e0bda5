"""What wakes an agent, as the daemon and the database know it, for `agentd status`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agentd.bus import Bus
from agentd.commands.output import compact, local
from agentd.states import WorkerState

# Of an agent that no running daemon has accepted.
NO_TRIGGERS: dict[str, Any] = {
    **{"schedule": None, "next": None, "at": [], "watch": [], "watch_problem": None},
    **{"where": {}, "batch": None, "missed": None, "later": []},
}


def triggers(agent: Mapping[str, Any], watcher: Mapping[str, Any] | None, bus: Bus) -> Any:
    """Return what wakes an agent; `watcher` is the running watcher's entry."""
    said = agent.get("triggers") or {}
    now = datetime.now(UTC)
    return {
        **NO_TRIGGERS,
        **said,
        "next": (agent.get("beat") or {}).get("next"),
        "at": [
            {"at": text, "over": datetime.fromisoformat(text).astimezone() <= now}
            for text in said.get("at", ())
        ],
        "watch_problem": _watch_problem(agent["name"], watcher) if said.get("watch") else None,
        "later": [one.document() for one in bus.later.list(agent["name"])],
    }


def _watch_problem(name: str, watcher: Mapping[str, Any] | None) -> str | None:
    if watcher is None:
        return None
    if watcher["state"] != WorkerState.RUNNING and watcher["reason"]:
        return f"the watcher is {watcher['state']}: {watcher['reason']}"
    problem: str | None = (watcher["beat"].get("problems") or {}).get(name)
    return problem


def lines(triggers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that people read, without those that are none."""
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
