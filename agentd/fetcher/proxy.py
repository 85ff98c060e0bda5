"""What one agent's programs go by: a proxy on loopback, for the hosts that its `net` lists.

It resolves names itself, and connects to public addresses alone, as `HttpGet` does. Under TLS it
sees no more than the host that it connects to: what a program says inside, such as another name to
a server of many, passes.
"""

import hmac
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from http import HTTPStatus

from agentd.clock import SystemClock
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.fetcher.proxy_head import END, HEAD_BYTES_MAX, ProxyHead, read_head
from agentd.fetcher.pump import pump
from agentd.net.connection import ClientConnection, connected
from agentd.net.exchange import BROKEN
from agentd.net.wait import Deadline, Waiter
from agentd.process.stop import Cancel
from agentd.tools.http import addresses, check_url

CONNECTIONS_MAX = 32  # of one agent's programs at a time
HEAD_S = 10.0  # for a request to arrive
CONNECT_S = 30.0  # for its server to be found and connected to
IDLE_S = 300.0  # without a byte
REALM = 'Proxy-Authenticate: Basic realm="agentd"'


class Proxy:
    """Accepts at `listening`, for who shows `secret`, connections to the hosts of `net`."""

    def __init__(self, listening: socket.socket, secret: str, net: Sequence[str]) -> None:
        self.listening = listening
        self._secret, self._net = secret, net
        self._cancel = Cancel()
        self._open: set[socket.socket] = set()
        listening.setblocking(False)

    @property
    def busy(self) -> bool:
        """Whether a connection is open."""
        return bool(self._open)

    def accept(self) -> None:
        """Take a connection that waits; one too many is closed."""
        with suppress(OSError):  # it is gone
            client, _ = self.listening.accept()
            client.setblocking(False)
            if len(self._open) >= CONNECTIONS_MAX:
                client.close()
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        """Accept no more, and end what is under way."""
        self.listening.close()
        self._cancel.stop()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, suppress(*BROKEN, Stopped):
                self._talk(client)
        finally:
            self._open.discard(client)

    def _talk(self, client: socket.socket) -> None:
        with ExitStack() as stack:
            deadline = Deadline(SystemClock(), HEAD_S)
            waiter = stack.enter_context(Waiter.of(deadline, self._cancel))
            program = ClientConnection(client, waiter)
            head, rest = _head(program)
            if head is None:
                return
            if not hmac.compare_digest(head.secret.encode(), self._secret.encode()):
                _refuse(program, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, "a wrong password")
                return
            deadline.restart(CONNECT_S)
            try:
                target = check_url(head.url, self._net)
                found = addresses(target, self._net, waiter)
                server = stack.enter_context(connected(found, target.port, waiter))
            except PermissionRefused as error:
                _refuse(program, HTTPStatus.FORBIDDEN, error.what)
            except (ToolError, OSError) as error:
                _refuse(program, HTTPStatus.BAD_GATEWAY, getattr(error, "what", str(error)))
            else:
                if head.connects:
                    program.sendall(b"HTTP/1.1 200 Connected" + END)
                else:
                    server.sendall(head.for_server(target.authority, target.path))
                server.sendall(rest)
                pump(client, server.sock, self._cancel, IDLE_S)


def _head(program: ClientConnection) -> tuple[ProxyHead | None, bytes]:
    """Read a request's head, and what came behind it; without one, say what is wrong with it."""
    data, piece = bytearray(), bytearray(HEAD_BYTES_MAX)
    while END not in data and len(data) <= HEAD_BYTES_MAX:
        count = program.readinto(piece)
        if not count:
            return None, b""
        data += piece[:count]
    head, end, rest = data.partition(END)
    try:
        if not end:
            raise ToolError(f"a head of more than {HEAD_BYTES_MAX} bytes")
        return read_head(bytes(head)), bytes(rest)
    except ToolError as error:
        _refuse(program, HTTPStatus.BAD_REQUEST, error.what)
        return None, b""


def _refuse(program: ClientConnection, status: HTTPStatus, what: str) -> None:
    text = f"agentd: {what}\n".encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *([REALM] if status is HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else []),
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(text)}",
        "Connection: close",
    ]
    program.sendall("\r\n".join(lines).encode() + END + text)
