"""What wakes an agent, as its accepted version says and the database knows, for `agentd status`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agentd.admission.version import CONFIG
from agentd.bus import AgentRow, Bus
from agentd.clock import iso
from agentd.commands.output import compact, local
from agentd.config.agent import load_agent
from agentd.config.timetable import Timetable
from agentd.errors import ConfigError
from agentd.paths import Paths
from agentd.states import WorkerState

NO_TRIGGERS: dict[str, Any] = {
    **{"schedule": None, "next": None, "at": [], "watch": [], "watch_problem": None},
    **{"where": {}, "batch": None, "missed": None, "later": []},
}


def triggers(bus: Bus, row: AgentRow, paths: Paths) -> dict[str, Any]:
    """Return what wakes an agent; nothing of a version that cannot be read."""
    later = [one.document() for one in bus.later.list(row.name)]
    try:
        config = load_agent(paths.versions / row.name / row.version / CONFIG)
    except ConfigError:  # its worker says so
        return {**NO_TRIGGERS, "later": later}
    said = config.model_dump(mode="json", include={"where", "batch", "watch", "missed"})
    now = bus.clock.now()
    runs = {}
    for schedule in config.schedules:
        last = bus.schedules.last_run(row.name, schedule.name)
        since = last.due if last is not None else now
        runs[schedule.name] = Timetable(row.name, schedule).following(since, max(since, now))
    return {
        **NO_TRIGGERS,
        **said,
        "schedule": config.schedule and config.schedule.name,
        "next": _iso(min(filter(None, runs.values()), default=None)),
        "at": [{"at": m.at, "over": runs[m.name] is None} for m in config.moments],
        "later": later,
    }


def add_watch_problem(agent: Mapping[str, Any], watcher: Mapping[str, Any] | None) -> None:
    """Say what is wrong with the folders that an agent watches, as the running watcher has it."""
    if watcher is None or not agent["triggers"]["watch"]:
        return
    problem = (watcher["beat"].get("problems") or {}).get(agent["name"])
    if watcher["state"] != WorkerState.RUNNING and watcher["reason"]:
        problem = f"the watcher is {watcher['state']}: {watcher['reason']}"
    agent["triggers"]["watch_problem"] = problem


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def lines(triggers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that people read, without those that are none."""
    batch = triggers["batch"]
    at = [f"{one['at']} (over)" if one["over"] else one["at"] for one in triggers["at"]]
    return {
        "schedule": triggers["schedule"],
        "at": ", ".join(at) or None,
        "next run": triggers["next"] and local(triggers["next"]),
        "watches": ", ".join(triggers["watch"]) or None,
        "but": triggers["watch_problem"],
        "where": compact(triggers["where"]) if triggers["where"] else None,
        "batch": batch and f"at most {batch['most']} events, within {batch['within']}",
        "later": "; ".join(f"{local(x['due'])} {x['what']}" for x in triggers["later"]) or None,
    }
