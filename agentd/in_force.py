"""The daemon's configuration in force: agentd.toml, or the last right one while that is wrong.

A wrong line must not keep a worker from its restart, or the daemon from its start at login. So a
copy of what was accepted is kept.
"""

import contextlib

from agentd.config import DaemonConfig, load_daemon
from agentd.errors import ConfigError
from agentd.paths import Paths


def in_force(paths: Paths) -> DaemonConfig:
    """Return what agentd.toml says, or what it said when it was right.

    Raises:
        ConfigError: it is wrong, and nothing is known of an earlier one.
    """
    try:
        return load_daemon(paths.daemon_file)
    except ConfigError:
        if (last := last_right(paths)) is None:
            raise
        return last


def last_right(paths: Paths) -> DaemonConfig | None:
    """Return the configuration that was kept; None without one."""
    if not paths.accepted_daemon_file.exists():
        return None
    with contextlib.suppress(ConfigError):  # written by another version
        return load_daemon(paths.accepted_daemon_file)
    return None


def keep(paths: Paths) -> None:
    """Keep a copy of agentd.toml, if it is right; one that is missing stands for all defaults.

    Raises:
        OSError: it cannot be written.
    """
    kept = paths.accepted_daemon_file
    try:
        data = paths.daemon_file.read_bytes()
    except FileNotFoundError:
        data = b""
    with contextlib.suppress(FileNotFoundError):
        if kept.read_bytes() == data:
            return
    new = kept.with_suffix(".new")
    new.write_bytes(data)
    with contextlib.suppress(ConfigError):  # changed this moment: the next look tells of it
        load_daemon(new)
        new.replace(kept)
