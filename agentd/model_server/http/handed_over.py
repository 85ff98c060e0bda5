"""What the supervisor hands over while we serve: agents' links, and a socket for programs.

A worker that asks for the model gets one end of a link, and we the other with its agent's name. For
each exchange it sends one end of a fresh socket pair over its link, and a byte tells it that it is
here. So whose a request is stands in no request.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from agentd.model_server.http.server import HttpServer
from agentd.process.channel import Channel, ChannelClosed

FDS_MAX = 8  # taken at a time
HERE = b"\0"


class HandedOver:
    """Takes what comes by `control`, and connections that come by links. In the event loop.

    `on_agent` is called when an agent has got a link.
    """

    def __init__(self, control: Channel, http: HttpServer, on_agent: Callable[[], None]) -> None:
        self._control, self._http, self._on_agent = control, http, on_agent
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # One of each agent: its own code could ask for links until no descriptor is left.
        self._links: dict[str, socket.socket] = {}
        self._loop.add_reader(control.fileno(), self._take)

    def _take(self) -> None:
        try:
            while (found := self._control.receive_now()) is not None:
                document, fds = found
                for fd in fds:
                    sock = socket.socket(fileno=fd)
                    sock.setblocking(False)
                    if "agent" not in document:
                        self._do(self._http.listen(sock))
                        continue
                    self._on_agent()
                    self._end(agent := document["agent"])
                    self._links[agent] = sock
                    self._loop.add_reader(sock, self._take_connections, sock, agent)
        except ChannelClosed:  # the supervisor is gone, and with it this process in a moment
            self._loop.remove_reader(self._control.fileno())

    def _take_connections(self, link: socket.socket, agent: str) -> None:
        try:
            data, fds, _flags, _address = socket.recv_fds(link, FDS_MAX, FDS_MAX)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        for fd in fds:
            if (connection := _stream(fd)) is not None:
                self._do(self._http.adopt(connection, agent))
        try:
            if data:
                link.send(HERE * len(data))
        except OSError:  # it does not read, so it is none of our workers
            data = b""
        if not data:
            self._end(agent)

    def _end(self, agent: str) -> None:
        """End the link that this agent has, if it has one."""
        if (link := self._links.pop(agent, None)) is not None:
            self._loop.remove_reader(link)
            link.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself would forget it
        task.add_done_callback(self._tasks.discard)


def _stream(fd: int) -> socket.socket | None:
    """Return what came as the socket that it is to be; an agent's own code may send anything."""
    os.set_inheritable(fd, False)
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
        with contextlib.suppress(OSError):
            sock.getpeername()  # it is connected
            sock.setblocking(False)
            return sock
    sock.close()
    return None
