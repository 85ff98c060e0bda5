"""`python -m agentd.watcher require|checks STARTED NAME/HASH ...`: started by the supervisor.

The first word is how whole its sandbox has to be, the second when the daemon was started; then come
the versions of the agents that watch something. In this order: a guardian, the sandbox, threads.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agentd.bus import Opening
from agentd.bus.wake import Bell
from agentd.clock import parse_iso
from agentd.config.agent import AgentConfig
from agentd.config.delivery import day_folder
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, ConfigError, SandboxUnavailable, Stopped
from agentd.logs import logger as logs
from agentd.logs.logger import Logger
from agentd.paths import discover
from agentd.process.child import child_side
from agentd.process.heart import STOPPING
from agentd.process.stop import Stop
from agentd.sandbox.enter import enter
from agentd.states import Exit
from agentd.terminal import note
from agentd.watcher.watch_policy import NAME, config_of, watch_policy
from agentd.watcher.watcher import FileWatcher, identities

ENDS_S = 5.0  # from its last beat
NICE = 5  # agents come first


class Prepared:
    """What the watcher reads while it has one thread, and then its sandbox."""

    def __init__(self, versions: Sequence[str], *, require: bool) -> None:
        self._versions, self._require = versions, require
        self.error: AgentdError | None = None
        self.log: Logger | None = None
        self.agents: dict[str, AgentConfig] = {}
        self.days: Path | None = None  # where results are written

    def __call__(self) -> None:
        """Prepare the process."""
        try:
            self.paths = paths = discover()
            daemon = effective_config(paths)
            with suppress(ConfigError):  # what sends results says so, and writes none
                self.days = day_folder(daemon.deliver, paths)
            self.opening = Opening(create=False, full_sync=daemon.bus.fullfsync)
            self.log = logs.configure(NAME, paths, daemon.logs)
            self.log.info("watcher.started", pid=os.getpid())
            for version in self._versions:
                try:
                    self.agents[version.partition("/")[0]] = config_of(version, paths)
                except ConfigError as error:  # its worker says so, and it is built again
                    self.log.warning("watch.problem", what=str(error))
            self.folders = identities(self.agents.values())
            policy = watch_policy(self._versions, paths)
            Bell(paths.wake)  # by a socket that cannot be made in there
            if sys.platform == "linux":  # on macOS it was started in it
                enter(policy, require=self._require)
        except AgentdError as error:
            self.error = error


def main() -> int:
    """Look until a stop; returns the exit code."""
    level, started, *versions = sys.argv[1:]
    os.nice(NICE)
    ready = Prepared(versions, require=level == "require")
    heart = child_side(before_threads=ready)
    try:
        if ready.error is not None:
            raise ready.error
        assert ready.log is not None
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # who breaks a lease (contents.py)
        watcher = FileWatcher(
            ready.agents,
            ready.folders,
            ready.paths,
            ready.opening,
            parse_iso(started),
            heart,
            ready.log,
            ready.days,
        )
        watcher.run(Stop())
        heart.beat(ENDS_S, STOPPING)
        return Exit.OK
    except Stopped:
        return Exit.OK
    except AgentdError as error:
        heart.problem(error)
        note(*error.lines())
        lasting = error.exit_code == Exit.CONFIG or isinstance(error, SandboxUnavailable)
        return Exit.CONFIG if lasting else Exit.TEMPORARY
    finally:
        logs.close()


if __name__ == "__main__":
    sys.exit(main())
