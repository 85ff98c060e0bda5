"""What workers need for the server of `[model] url`: their sandbox has neither network nor key."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from agentd.config.daemon import ModelConfig
from agentd.errors import AgentdError
from agentd.llm.external import ADDRESSES
from agentd.llm.listing import model_key
from agentd.llm.wire import CONNECT_S
from agentd.net.exchange import PORTS
from agentd.paths import Paths
from agentd.process.jobs import in_thread
from agentd.supervisor.requests import Answer, Asker, Handler


def handlers(config: Callable[[], ModelConfig], paths: Paths) -> Mapping[str, Handler]:
    """Return what a worker may ask for; `config`: [model] as it is now."""

    async def connect(asker: Asker, _: dict[str, Any]) -> Answer:
        if (url := config().url) is None:
            raise AgentdError("there is no [model] url to connect to")
        return await _connection(url)

    async def key(asker: Asker, _: dict[str, Any]) -> Answer:
        return {"key": await in_thread(model_key, config(), paths)}, ()

    return {"connection": connect, "model_key": key}


async def _connection(url: str) -> Answer:
    """Answer with a connection to the URL's host and no other; or with why there is none."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    problem: OSError = OSError(0, "no address")
    try:
        async with asyncio.timeout(CONNECT_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
    except OSError as error:  # a TimeoutError is one
        problem, found = error, []
    for family, kind, protocol, _, address in found[:ADDRESSES]:
        try:
            return {}, [await _connected(socket.socket(family, kind, protocol), address)]
        except OSError as error:
            problem = error
    return {"errno": problem.errno or 0, "why": problem.strerror or "timed out"}, ()


async def _connected(sock: socket.socket, address: Any) -> int:
    """Return the descriptor of a socket once it is connected. Raises OSError."""
    with sock:
        sock.setblocking(False)
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(sock, address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return os.dup(sock.fileno())
