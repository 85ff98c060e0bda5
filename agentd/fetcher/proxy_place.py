"""Where programs find a proxy: its socket is made before the fetcher has it, and outlives it."""

import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.errors import AgentdError

BACKLOG = 32
SECRET_BYTES = 24


@dataclass(frozen=True)
class ProxyPlace:
    """Where some hands' programs find their proxy. The URL holds its secret."""

    number: int
    port: int
    url: str


def new_place(
    number: int, net: Sequence[str]
) -> tuple[ProxyPlace, socket.socket, Mapping[str, Any]]:
    """Return a place for what may reach the hosts of `net`, its listening socket, and its document.

    The fetcher gets the document with that socket.

    Raises:
        AgentdError: there is no port for it.
    """
    secret = secrets.token_urlsafe(SECRET_BYTES)
    try:
        listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    except OSError as error:  # no descriptor is left, or no port
        raise AgentdError(f"programs can have no proxy: {error}") from error
    port = listening.getsockname()[1]
    place = ProxyPlace(number, port, f"http://agentd:{secret}@127.0.0.1:{port}")
    return place, listening, {"proxy": number, "secret": secret, "net": list(net)}
