"""The frame of a helper process: log and sandbox before any thread, its end in words."""

import os
from collections.abc import Callable
from typing import Any

from agentd.config.daemon import DaemonConfig
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, SandboxUnavailable
from agentd.logs import logger as logs
from agentd.logs.logger import Logger
from agentd.paths import Paths, discover
from agentd.process.child import child_side
from agentd.process.failure import end_with_threads
from agentd.process.heart import STOPPING, Heart
from agentd.process.supervisor_link import SupervisorLink
from agentd.states import Exit

ENDS_S = 5.0  # from its last beat


class ConfinedProcess:
    """What a helper that is kept running has: config, log, heart, and a link to the supervisor.

    `name` is the log's. `events` names its log lines: that it began, ended with an error, crashed.
    """

    paths: Paths
    config: DaemonConfig
    link: SupervisorLink
    heart: Heart

    def __init__(self, name: str, events: tuple[str, str, str]) -> None:
        self._name = name
        self._started, self._ended, self._crashed = events
        self.log: Logger = logs.get_logger()

    def run(
        self,
        enter: Callable[[Paths, DaemonConfig], None],
        serve: Callable[[], None],
        about: Callable[[DaemonConfig], dict[str, Any]] = lambda _: {},
    ) -> int:
        """Serve until the supervisor stops it; return the exit code.

        `enter` enters the sandbox, while there is one thread; `about` is told as it starts.
        """
        wrong: list[Exception] = []

        def prepare() -> None:
            try:
                self.paths = discover()
                self.config = effective_config(self.paths)
                self.log = logs.configure(self._name, self.paths, self.config.logs)
                self.log.info(self._started, pid=os.getpid(), **about(self.config))
                enter(self.paths, self.config)
            except Exception as error:  # raised once there is a heart to tell it by
                wrong.append(error)

        self.link = SupervisorLink.of_environment()
        self.heart = child_side(before_threads=prepare)
        try:
            for error in wrong:
                raise error
            end_with_threads(self._raised)
            serve()
            self.heart.beat(ENDS_S, STOPPING)
            return Exit.OK
        except AgentdError as error:
            self.heart.problem(error)
            self.log.error(self._ended, error=str(error), exit=int(error.exit_code))
            lasting = error.exit_code == Exit.CONFIG or isinstance(error, SandboxUnavailable)
            return Exit.CONFIG if lasting else Exit.TEMPORARY
        except Exception as error:  # the top of the process: its traceback belongs in the log
            self._raised(error)
            return Exit.FAILED
        finally:
            logs.close()

    def _raised(self, error: BaseException) -> None:
        self.heart.problem(AgentdError(f"{type(error).__name__}: {error}"))
        self.log.error(self._crashed, exc_info=error)
