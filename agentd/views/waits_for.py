"""Why an agent does not get on, in words: one text, or none where nothing holds it up."""

from collections.abc import Mapping
from typing import Any

from agentd.states import WorkerState
from agentd.terminal import counted

RUNS = (WorkerState.STARTING, WorkerState.RUNNING)


def waits_for(agent: Mapping[str, Any], document: Mapping[str, Any]) -> str | None:
    """Return what an agent of the overview waits for, what stands nearest to it first."""
    if not document["answers"]:
        return "the daemon, which does not " + ("answer" if document["running"] else "run")
    state = agent["state"]
    if state == WorkerState.PAUSED:
        return f"a person, who paused it: `agentd resume {agent['name']}`"
    if not agent.get("enabled", True):
        return f"it is off: `agentd enable {agent['name']}`"
    if held := agent["held"]:
        return str(held["reason"])
    if state not in RUNS:
        problem = agent["problem"] or {}
        return agent["reason"] or problem.get("what") or None
    if trouble := (document["storage"] or {}).get("problem"):
        return f"the disk: {trouble['what']}"
    if problem := agent["problem"]:
        return str(problem["what"])
    if agent["asks"]:
        return f"your answer to {counted(agent['asks'], 'question')}: `agentd answer`"
    return _model(document["model"]) if _has_work(agent) else None


def _has_work(agent: Mapping[str, Any]) -> bool:
    session = agent["last_session"] or {}
    return any(agent["waiting"].values()) or session.get("state") == "running"


def _model(model: Mapping[str, Any] | None) -> str | None:
    if model is None or model["state"] == WorkerState.RUNNING:
        return None
    why = (model.get("problem") or {}).get("what") or model.get("reason")
    return f"the model, which is {model['state']}" + (f": {why}" if why else "")
