"""What wakes an agent, as the daemon and the database know it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agentd.bus import Bus
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
