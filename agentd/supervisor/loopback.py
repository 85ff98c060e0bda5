"""Ports of this machine alone, which the supervisor takes for the processes that serve there."""

import errno
import socket

from agentd.errors import ConfigError

HOST = "127.0.0.1"
BACKLOG = 128


def loopback(port: int, key: str) -> socket.socket:
    """Listen at a port, 0 for any free one; `key` of agentd.toml named it.

    Raises:
        ConfigError: it is in use, or cannot be taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without it a restart fails for a minute on connections in TIME_WAIT.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        in_use = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"port {port} is in use" if in_use else f"port {port}: {error.strerror}",
            where=f"agentd.toml: {key}",
            hint="free it, choose another, or set it to 0 for any free one",
        ) from error
    return listening
