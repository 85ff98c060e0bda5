"""Runs an agent's sessions: its module, its BAML client, its tools and its model, loaded once."""

from collections.abc import Callable, Mapping
from typing import Any

from agentd.admission.version import Accepted, load_version
from agentd.agent import Kit
from agentd.bus import Bus
from agentd.clock import Clock
from agentd.config import DaemonConfig
from agentd.llm.baml import BamlLLM, types_of
from agentd.llm.endpoint import Endpoint
from agentd.log import Logger
from agentd.loop import Ending, Loop
from agentd.paths import Paths
from agentd.sessions.sessions import Session, Sessions
from agentd.tools import REGISTRY, Toolbox


class Facts:
    """An agent's remembered facts, read once for a session; an `agent.Memory`."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def get(self, key: str, default: Any = None) -> Any:
        """Return the JSON value remembered under `key`."""
        return self._facts.get(key, default)


class Runner:
    """What an agent's sessions share. Made at the first event: BAML alone takes 20 MB.

    Raises:
        ConfigError: the version or the model's settings cannot be used.
    """

    def __init__(
        self, accepted: Accepted, paths: Paths, daemon: DaemonConfig, bus: Bus, clock: Clock
    ) -> None:
        self._config = accepted.config
        self._name = accepted.name
        self._bus = bus
        self._clock = clock
        self._call_deadline_s = daemon.model.call_deadline.total_seconds()
        self._version = version = load_version(accepted.folder)
        self._types = types_of(version.client_dir)
        self._tools = Toolbox(
            accepted.config.permissions,
            # Whatever the permissions say: the bus (a second descriptor of it, closed, would drop
            # this process's locks on it), sockets and the model server's token.
            forbidden=(
                paths.database,
                paths.database.with_name(paths.database.name + "-wal"),
                paths.database.with_name(paths.database.name + "-shm"),
                paths.run,
                *([daemon.model.api_key_file.expanduser()] if daemon.model.api_key_file else []),
            ),
            # Else an agent with a wide `write` could give itself, or a new agent, any permission.
            protected=(paths.config, paths.agents, paths.baml_src, paths.versions, paths.models),
            clock=clock,
        )
        agent = self._agent()
        self._idempotent = agent.idempotent | {n for n in version.uses if REGISTRY[n].idempotent}
        self._llm = BamlLLM(
            version.client_dir,
            version.function,
            Endpoint.discover(paths, daemon.model, clock),
            agent=accepted.name,
            done=accepted.config.done,
            weight=accepted.config.priority,
            fixed=agent.prompt_arguments(),
            arguments=version.arguments,
            members=version.members,
            clock=clock,
        )

    def run(
        self,
        session: Session,
        sessions: Sessions,
        log: Logger,
        beat: Callable[[float], None],
    ) -> Ending:
        """Run one session; see `Loop.run` for what it raises."""
        beat(self._call_deadline_s)  # counting tokens may already wait for the model server
        loop = Loop(
            session,
            self._agent(),
            self._llm,
            sessions,
            idempotent=self._idempotent,
            call_deadline_s=min(
                self._call_deadline_s, self._config.limits.no_progress.total_seconds()
            ),
            clock=self._clock,
            log=log,
            beat=beat,
        )
        return loop.run()

    def interrupt(self) -> None:
        """Interrupt the running call or tool for good, from another thread."""
        self._tools.close()
        self._llm.close()

    def _agent(self) -> Any:
        """Return the agent with what it remembers now."""
        memory = Facts(self._bus.facts(self._name))
        kit = Kit(self._name, self._config.done, self._tools, memory, self._types)
        return self._version.agent(self._version.params, kit)
