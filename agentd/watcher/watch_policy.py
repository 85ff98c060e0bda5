"""The watcher's sandbox: it reads the watched folders, and has the bus. Nothing else."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from agentd.admission.version import CONFIG
from agentd.config.agent import AgentConfig, load_agent
from agentd.config.watched import Pattern
from agentd.errors import ConfigError, ToolError
from agentd.paths import Paths
from agentd.sandbox.policy import SandboxPolicy, base_read, libraries
from agentd.tools.closed import Closed
from agentd.tools.place import locate

NAME = "agentd.watcher"  # no agent's name has a point


def watch_policy(versions: Iterable[str], paths: Paths) -> SandboxPolicy:
    """Return what the watcher of these versions, as "NAME/HASH", may touch."""
    closed = Closed.of(paths, NAME, None)
    database = Path(os.path.realpath(paths.database)).parent
    own = (str(paths.log(NAME).parent), str(database))
    told = (paths.daemon_file, paths.accepted_daemon_file, paths.lock, paths.wake)
    watched = dict.fromkeys(_folders(versions, paths, closed))
    return SandboxPolicy(
        read=(*base_read(), *libraries(paths), *own, *map(str, told), *watched),
        write=own,
        closed=tuple(str(p) for p in closed.own if not any(p.is_relative_to(o) for o in own)),
        sockets="unix" if sys.platform == "darwin" else "none",  # to wake agents
        notices=True,
    )


def _folders(versions: Iterable[str], paths: Paths, closed: Closed) -> Iterator[str]:
    marks = closed.marks(writing=False)
    for version in versions:
        with suppress(ConfigError):
            config = config_of(version, paths)
            for pattern in patterns(config):
                with suppress(ToolError):  # not among `read`
                    yield locate(str(pattern.folder), config.permissions.read, marks).path


def config_of(version: str, paths: Paths) -> AgentConfig:
    """Return the configuration of a version, as "NAME/HASH".

    Raises:
        ConfigError: it cannot be read.
    """
    return load_agent(paths.versions / version / CONFIG)


def patterns(config: AgentConfig) -> list[Pattern]:
    """Return what an agent watches."""
    return [Pattern.of(text) for text in config.watch]
