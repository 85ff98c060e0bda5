"""Requests to a model server by one connection, which another thread can end at once."""

import re
import socket
import ssl
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.client import IncompleteRead
from threading import Event, Lock
from types import TracebackType
from urllib.parse import urlsplit

from agentd.errors import ModelError, ModelMisconfigured, Stopped
from agentd.net.connection import ClientConnection, connected, look_up
from agentd.net.exchange import BROKEN, PORTS, HTTPException, Response, authority
from agentd.net.kept_connection import KeptConnection
from agentd.net.wait import Deadline, Passed, Waiter
from agentd.process.stop import Cancel

CONNECT_S = 5.0  # a loopback server answers at once
BODY_BYTES_MAX = 8_000_000  # of an answer; more is no answer to a decision
LINE_BYTES_MAX = 1_000_000  # of one line of an event stream
LINE_END = re.compile(rb"\r\n|\n|\r")

Connect = Callable[[Waiter], socket.socket]

# Set by the test kit: the only servers that this process may call.
only: Container[tuple[str, int]] | None = None


class HttpReply:
    """A response whose body is still to be read. Close it, or use it as a context manager."""

    def __init__(self, response: Response, close: Callable[[bool], None]) -> None:
        self._response = response
        self._close = close  # is told whether all went well
        self.status = response.status
        self.header = response.header

    def body(self) -> bytes:
        """Return the whole body."""
        data = b"".join(self._pieces())
        if self._response.missing:
            raise HTTPException("the body was cut off")
        return data

    def lines(self) -> Iterator[bytes]:
        """Yield the body's lines as they come, without their ends; a cut body just ends."""
        rest = b""
        try:
            for piece in self._pieces():
                rest += piece
                held = rest.endswith(b"\r")  # its "\n" may be still to come
                lines = LINE_END.split(rest[:-1] if held else rest)
                rest = lines.pop() + (b"\r" if held else b"")
                if len(rest) > LINE_BYTES_MAX:
                    raise HTTPException("an event stream longer than any decision")
                yield from lines
        except IncompleteRead:
            pass
        if rest:
            yield rest.rstrip(b"\r")

    def _pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes, unpacked, and bounded."""
        coding = self.header("Content-Encoding").strip().lower()
        packed = coding in ("gzip", "x-gzip", "deflate")
        if not packed and coding not in ("", "identity"):
            raise HTTPException(f"an answer packed by {coding!r}, which was not asked for")
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if packed else None
        total = 0
        for piece in self._response.pieces():
            try:
                part = unpacker.decompress(piece, BODY_BYTES_MAX) if unpacker else piece
            except zlib.error as error:
                raise HTTPException(f"an answer that cannot be unpacked: {error}") from error
            total += len(part)
            if total > BODY_BYTES_MAX or (unpacker and unpacker.unconsumed_tail):
                raise HTTPException(f"a body of more than {BODY_BYTES_MAX} bytes")
            yield part

    def __enter__(self) -> "HttpReply":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self._close(e is None)


def _encrypt(connection: ClientConnection, host: str) -> None:
    try:
        connection.encrypt(host)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
        raise  # it went away
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or error
        raise ModelMisconfigured(
            f"no safe connection to {host}: {why}",
            where="[model] url",
            hint="is it an https server, with a certificate that this machine trusts? A server on "
            "this machine is http as a rule",
        ) from error


@dataclass(frozen=True)
class Destination:
    """Where a connection leads: to a URL's host, or wherever `connect` leads."""

    scheme: str
    host: str
    port: int
    connect: Connect | None


class Wire:
    """Makes exchanges; `cut` ends the running ones and refuses further ones.

    With `keep` a connection is kept for the next one, which is then for the same place or closes
    it. A server that closes it without a word is connected to anew each time from then on.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.cancel = Cancel()  # stopped by `cut`
        self._keep = keep
        self._lock = Lock()  # of what is kept
        self._kept: tuple[Destination, KeptConnection] | None = None
        self._unkept: Destination | None = None

    def __del__(self) -> None:
        self._let_go()

    def send(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        connect: Connect | None = None,
    ) -> HttpReply:
        """Send a request and return the reply once its headers are there.

        `connect` returns a connection in the place of one to the URL's host.

        Raises:
            Stopped: `cut` was called.
            ModelError: a test may not call it.
            ModelMisconfigured: the server's certificate, or TLS itself, does not hold.
            Passed: the deadline has passed.
            OSError, HTTPException: refused, reset, or not HTTP.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        self.check()
        if only is not None and connect is None and (host, port) not in only:
            raise ModelError(
                f"no model may be called here, and {host}:{port} is no fake server",
                hint="use the doubles of agentd.testing, or mark the test agentd_online",
            )
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        place = Destination(parts.scheme, host, port, connect)
        name = authority(parts.scheme, host, port)
        fields = {"Connection": "keep-alive" if self._keeps(place) else "close", **(headers or {})}
        with ExitStack() as undone:
            kept = self._resumed(place, deadline)
            connection = kept or self._connected(place, deadline)
            undone.callback(connection.close)
            try:
                response = connection.exchange(method, name, target, fields, body)
            except BROKEN as error:
                if kept and not isinstance(error, Passed):
                    self._unkept = place
                    if isinstance(error, HTTPException):  # no word of it is this request's answer
                        what = f"a kept connection ended: {error}"
                        raise ConnectionResetError(what) from error
                raise
            undone.pop_all()
            return HttpReply(response, partial(self._left, place, connection))

    def _keeps(self, place: Destination) -> bool:
        return self._keep and place != self._unkept

    def _connected(self, place: Destination, deadline: Deadline) -> KeptConnection:
        """Return a new connection. Raises as `send`."""
        with ExitStack() as opened:
            waiter = opened.enter_context(Waiter.of(deadline, self.cancel))
            if place.connect is not None:
                connection = ClientConnection(place.connect(waiter), waiter)
                opened.callback(lambda: connection.sock.close())  # under TLS it is another one
            else:
                # In this thread: replay/offline.py may let it through.
                found = look_up(place.host, place.port)
                connection = opened.enter_context(connected(found, place.port, waiter, CONNECT_S))
            if place.scheme == "https":
                _encrypt(connection, place.host)
            return KeptConnection(connection, waiter, opened.pop_all().close)

    def _resumed(self, place: Destination, deadline: Deadline) -> KeptConnection | None:
        """Return the connection that was kept, if it leads there and goes on."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return None
        with ExitStack() as undone:
            undone.callback(kept[1].close)
            if kept[0] == place and kept[1].resume(deadline):
                undone.pop_all()
                return kept[1]
        return None

    def _left(self, place: Destination, connection: KeptConnection, well: bool) -> None:
        """Keep a connection that an exchange has left, or close it."""
        if well and self._keeps(place) and connection.leave():
            with self._lock:
                if not self.cancel.stopped and self._kept is None:
                    self._kept = place, connection
                    return
        connection.close()

    def _let_go(self) -> None:
        """Close the connection that is kept."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept[1].close()

    def check(self) -> None:
        """Raise Stopped if `cut` was called."""
        if self.cancel.stopped:
            raise Stopped("the call to the model was stopped")

    def wait(self, seconds: float) -> None:
        """Wait, unless `cut` is called: then raise Stopped."""
        over = Event()
        with self.cancel.watching(over.set):
            over.wait(seconds)
        self.check()

    def cut(self) -> None:
        """End the running exchange and refuse further ones. Safe from any thread."""
        self.cancel.stop()
        self._let_go()
