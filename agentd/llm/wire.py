"""Requests to a model server, which another thread can end at once."""

import re
import socket
import ssl
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack
from http.client import IncompleteRead
from threading import Event
from types import TracebackType
from urllib.parse import urlsplit

from agentd.errors import ModelError, ModelMisconfigured, Stopped
from agentd.net.connection import ClientConnection, connected, look_up
from agentd.net.exchange import PORTS, HTTPException, Response, authority, exchange
from agentd.net.wait import Deadline, Waiter
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

    def __init__(self, response: Response, close: Callable[[], None]) -> None:
        self._response = response
        self._close = close
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
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self._close()


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


class Wire:
    """Makes exchanges, one at a time; `cut` ends the running one and refuses further ones."""

    def __init__(self) -> None:
        self.cancel = Cancel()  # stopped by `cut`

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
        name = authority(parts.scheme, host, port)
        with ExitStack() as opened:
            waiter = opened.enter_context(Waiter.of(deadline, self.cancel))
            if connect is not None:
                connection = ClientConnection(opened.enter_context(connect(waiter)), waiter)
            else:
                found = look_up(host, port)  # in this thread: replay/offline.py may let it through
                connection = opened.enter_context(connected(found, port, waiter, CONNECT_S))
            if parts.scheme == "https":
                _encrypt(connection, host)
            response = exchange(connection, method, name, target, headers or {}, body)
            return HttpReply(response, opened.pop_all().close)

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
