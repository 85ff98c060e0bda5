"""The test kit, for agentd's own tests and for those of your agents.

Everything of agentd runs for real in a test: SQLite, processes, HTTP. Only the model is replaced,
either at the loop's edge (`ScriptedLLM`) or behind real HTTP (`FakeModelServer`).

`one_agent.py` runs an agent on one event. Models for it: `scripted.py`, `random_model.py`,
`fake_server.py`, and `tiny_model.py` for the model server's own tests. `waiting.py` waits without
sleeping, `plugin.py` is pytest's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentd.replay.offline import Offline, offline
    from agentd.replay.recorded_llm import RecordedLLM
    from agentd.replay.single_run import Performance
    from agentd.testing.fake_server import Answer, FakeModelServer, Reply, Request
    from agentd.testing.one_agent import UnionLLM, recorded, run_agent
    from agentd.testing.random_model import RandomModel
    from agentd.testing.scripted import BYTES_PER_TOKEN, WINDOW, Script, Scripted, ScriptedLLM
    from agentd.testing.waiting import POLL_S, WAIT_S, ManualClock, wait_for

__all__ = [
    "BYTES_PER_TOKEN",
    "POLL_S",
    "WAIT_S",
    "WINDOW",
    "Answer",
    "FakeModelServer",
    "ManualClock",
    "Offline",
    "Performance",
    "RandomModel",
    "RecordedLLM",
    "Reply",
    "Request",
    "Script",
    "Scripted",
    "ScriptedLLM",
    "UnionLLM",
    "offline",
    "recorded",
    "run_agent",
    "wait_for",
]

_HOMES = {
    "replay.offline": ("Offline", "offline"),
    "replay.single_run": ("Performance",),
    "replay.recorded_llm": ("RecordedLLM",),
    "testing.one_agent": ("UnionLLM", "recorded", "run_agent"),
    "testing.random_model": ("RandomModel",),
    "testing.scripted": ("BYTES_PER_TOKEN", "WINDOW", "Script", "Scripted", "ScriptedLLM"),
    "testing.fake_server": ("Answer", "FakeModelServer", "Reply", "Request"),
    "testing.waiting": ("POLL_S", "WAIT_S", "ManualClock", "wait_for"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the pytest plugin is loaded in every project's tests."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"agentd.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
