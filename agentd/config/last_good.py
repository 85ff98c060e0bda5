"""The daemon's configuration in force: agentd.toml, or the last right one while that is wrong.

A wrong line must not keep a worker from its restart, or the daemon from its start at login. So a
copy of what was accepted is kept.
"""

import contextlib

from agentd.config.daemon import DaemonConfig, load_daemon
from agentd.errors import ConfigError
from agentd.paths import Paths
from agentd.whole import write_whole

# What is kept for an agentd.toml that is missing or empty: an empty copy is what a crash leaves.
DEFAULTS = b"# every default holds\n"


def effective_config(paths: Paths) -> DaemonConfig:
    """Return what agentd.toml says, or what it said when it was right.

    Raises:
        ConfigError: it is wrong, and nothing is known of an earlier one.
    """
    try:
        return load_daemon(paths.daemon_file)
    except ConfigError:
        if (last := last_good_config(paths)) is None:
            raise
        return last


def last_good_config(paths: Paths) -> DaemonConfig | None:
    """Return the configuration that was kept; None without one, or where a crash emptied it."""
    with contextlib.suppress(OSError, ConfigError):  # unreadable, or written by another version
        if paths.accepted_daemon_file.stat().st_size:
            return load_daemon(paths.accepted_daemon_file)
    return None


def keep(paths: Paths) -> None:
    """Keep a copy of agentd.toml, if it is right; one that is missing stands for all defaults.

    Raises:
        OSError: it cannot be written.
    """
    data = _content(paths)
    with contextlib.suppress(FileNotFoundError):
        if paths.accepted_daemon_file.read_bytes() == data:
            return
    with contextlib.suppress(ConfigError):  # changed this moment: the next look tells of it
        load_daemon(paths.daemon_file)
        if _content(paths) == data:
            write_whole(paths.accepted_daemon_file, data)


def _content(paths: Paths) -> bytes:
    try:
        return paths.daemon_file.read_bytes() or DEFAULTS
    except FileNotFoundError:
        return DEFAULTS
