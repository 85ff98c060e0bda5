"""What the hosts of helper processes work with, the same for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentd.clock import Clock
from agentd.config.daemon import DaemonConfig
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process import environment
from agentd.process.child import Child
from agentd.process.jobs import Jobs
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Reaper


@dataclass(frozen=True)
class HostParts:
    """One supervisor's, in its event loop. `config` gives agentd.toml as it is now."""

    paths: Paths
    config: Callable[[], DaemonConfig]
    commands: Commands
    reaper: Reaper
    jobs: Jobs
    log: Logger
    clock: Clock

    @property
    def required(self) -> bool:
        """Whether a sandbox has to be whole."""
        return self.config().sandbox.required

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        control: bool = True,
        pass_fds: Sequence[int] = (),
        stdio: tuple[int, int] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a helper, with a control socket unless it asks and is told nothing.

        `more`: of its environment.

        Raises:
            OSError, AlreadyRunning: as `Child.spawn`.
        """
        locks, data = self.paths.locks, self.paths.data
        return Child.spawn(
            name,
            argv,
            locks,
            cwd=data,
            control=control,
            pass_fds=pass_fds,
            stdio=stdio,
            env={**environment.for_child(), **(more or {})},
            clock=self.clock,
        )
