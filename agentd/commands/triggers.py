"""What wakes an agent, in lines for `agentd status NAME`."""

from collections.abc import Mapping
from typing import Any

from agentd.commands.output import compact, local


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
