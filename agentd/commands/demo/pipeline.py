"""The demo's agents at work: asked once, followed on the screen, until nothing is left to do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.bus import Bus
from agentd.commands.demo.screen import Screen
from agentd.commands.demo.temporary import Daemon, expecting
from agentd.commands.model import ask_model_server
from agentd.config.daemon import load_daemon
from agentd.errors import AgentdError
from agentd.events import PERSON, Event, Lane, NewEvent
from agentd.llm.endpoint import Endpoint
from agentd.paths import Paths
from agentd.sessions.trouble import trouble
from agentd.states import Priority, WorkerState

START_S = 120.0  # for a model to load, or the agents to start
DEADLINE_S = 600.0  # for the agents' work; on 2 slow cores it takes a quarter of it
STATUS_EVERY_S = 1.0
GAVE_UP = (WorkerState.PARKED, WorkerState.INVALID)
PROBE = [{"role": "user", "content": "Say yes."}]
SCORED: Mapping[str, Any] = {"heads": ["a"], "items": ["b"]}


@dataclass(frozen=True)
class Measured:
    """What was measured of the model."""

    tokens_per_s: float  # that it reads
    scores: bool  # whether its server can rank


def measured(home: Paths, daemon: Daemon) -> Measured:
    """Wait for the model, and measure it by short calls."""
    endpoint = Endpoint.discover(home, load_daemon(home.daemon_file).model)
    for _ in expecting(START_S, "the model was not loaded"):
        if (status := daemon.status()) is None:
            continue
        model = status["model"]
        if model["state"] in GAVE_UP or model["problem"]:
            raise AgentdError(f"the model server failed: {model['reason']}")
        if model["external"] or ask_model_server("/ready", home) is not None:
            break
    body = {"messages": PROBE, "max_tokens": 1, "temperature": 0}
    began = time.monotonic()
    answer = endpoint.chat(body, {}, deadline_s=START_S, progress=lambda: None)
    tokens = answer.usage.prompt_tokens or len(PROBE[0]["content"]) / 4
    speed = float(tokens) / (time.monotonic() - began)
    return Measured(
        speed, endpoint.own or endpoint.ask("/v1/score", SCORED, {}, START_S) is not None
    )


@dataclass(frozen=True)
class Pipeline:
    """Runs agents of which each wakes the next."""

    home: Paths
    daemon: Daemon
    bus: Bus
    screen: Screen

    def run(self, agents: Sequence[str], event: NewEvent) -> None:
        """Wait for the agents, publish an event, and show what comes until nothing is left to do.

        Raises:
            AgentdError: an agent was given up, rests, or takes too long.
        """
        for _ in expecting(START_S, "the agents did not start"):
            if self._all_run(agents):
                break
        self.bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
        looked = time.monotonic()
        for _ in expecting(DEADLINE_S, "the agents did not come to an end"):
            self.daemon.check()
            self.screen.update()
            if not self._waiting(agents):
                break
            self._check_rest(agents)
            if time.monotonic() - looked > STATUS_EVERY_S:
                looked = time.monotonic()
                self._all_run(agents)
        self.screen.update()
        self.screen.close()

    def events(self, event_type: str) -> Sequence[Event]:
        """Return what was published."""
        return self.bus.events.list(event_type=event_type)

    def _all_run(self, agents: Sequence[str]) -> bool:
        """Whether all are known to run; raise AgentdError for one that was given up."""
        status = self.daemon.status() or {"agents": []}
        found = {agent["name"]: agent for agent in status["agents"]}
        for name in agents:
            agent = found.get(name, {"state": ""})
            if agent["state"] in GAVE_UP:
                problem = agent["problem"] or {}
                raise AgentdError(
                    f"{name} is {agent['state']}: {problem.get('what') or agent['reason']}",
                    where=problem.get("where", ""),
                    hint=problem.get("hint", ""),
                )
        return all(name in found and found[name]["state"] == WorkerState.RUNNING for name in agents)

    def _check_rest(self, agents: Sequence[str]) -> None:
        """Raise AgentdError for an agent whose events wait since something around it is wrong."""
        for name in agents:
            found = trouble(self.bus.db, name)
            if found is not None and found.state is WorkerState.PARKED:
                raise AgentdError(f"not every event was answered: {name} rests: {found.reason}")

    def _waiting(self, agents: Sequence[str]) -> int:
        """Count the events that the agents still have to answer.

        An answer's events are written together with its lane's step, so the count never dips to 0
        between two agents.
        """
        rows = [row for row in self.bus.agents.list() if row.name in agents]
        lanes = [Lane(row.name, direct, row.subscribe) for row in rows for direct in (True, False)]
        return sum(self.bus.lanes.waiting(lane) for lane in lanes)
