"""The test kit, for agentd's own tests and for those of your agents.

Everything of agentd runs for real in a test: SQLite, processes, HTTP. Only the model is replaced,
either at the loop's edge (`ScriptedLLM`) or behind real HTTP (`FakeModelServer`).
"""

from agentd.replay.offline import Offline, offline
from agentd.replay.session import Performance
from agentd.replay.tape import RecordedLLM
from agentd.testing.agents import UnionLLM, recorded, run_agent
from agentd.testing.random_model import RandomModel
from agentd.testing.scripted import BYTES_PER_TOKEN, WINDOW, Script, Scripted, ScriptedLLM
from agentd.testing.server import Answer, FakeModelServer, Reply, Request
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
