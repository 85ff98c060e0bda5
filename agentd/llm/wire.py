"""One HTTP exchange under a deadline, which another thread can end at once.

http.client over a socket of our own: no HTTP library in the worker (25 MB), and each read gets
what is left of the deadline, so that a server dripping single bytes cannot outlast it.
"""

import http.client
import io
import re
import socket
import ssl
import threading
import zlib
from collections.abc import Container, Iterator, Mapping
from types import TracebackType
from urllib.parse import urlsplit

from agentd.clock import Clock
from agentd.errors import ModelError, ModelMisconfigured, Stopped

LATE_S = 2.0  # a wait that ends this late: this process was stopped meanwhile (SIGSTOP)
CONNECT_S = 5.0  # a loopback server answers at once; a name lookup cannot be interrupted
BODY_BYTES_MAX = 8_000_000  # of an answer; more is no answer to a decision
LINE_BYTES_MAX = 1_000_000  # of one line of an event stream
PIECE_BYTES = 65_536
LINE_END = re.compile(rb"\r\n|\n|\r")

BROKEN = (OSError, http.client.HTTPException)  # refused, reset, cut off, not HTTP
HTTPException = http.client.HTTPException

# Set by the test kit: the only servers that this process may call.
only: Container[tuple[str, int]] | None = None


class Deadline:
    """A moment on the monotonic clock that can be set anew."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Count `seconds` from now."""
        self._at = self._clock.monotonic() + seconds
        self._armed: tuple[float, float] | None = None

    def arm(self) -> float:
        """Return the seconds left for a wait that begins now; 0 or less when it has passed.

        No wait takes longer than what was left when it began. If the last one did, this process was
        stopped in it, and the time counts anew: the other side may have answered long ago.
        """
        now = self._clock.monotonic()
        if self._armed is not None and now - self._armed[0] > self._armed[1] + LATE_S:
            self._at = now + self._armed[1]
        self._armed = (now, self._at - now)
        return self._armed[1]

    def left(self) -> float:
        """Return the seconds left; negative when it has passed."""
        return self._at - self._clock.monotonic()


class Passed(TimeoutError):
    """The exchange's deadline has passed."""


class _Raw(io.RawIOBase):
    """The socket's bytes, each read bounded by what is left of the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        while True:
            _arm(self._sock, self._deadline)
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue  # it has passed, or this process was stopped: `_arm` knows


class _Socket:
    """What http.client needs of a socket."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, *_mode: object) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self._sock, self._deadline))

    def sendall(self, data: bytes) -> None:
        _arm(self._sock, self._deadline)
        self._sock.sendall(data)

    def close(self) -> None:
        """Leave the socket open: the reply still reads from it, and closes it."""


def _arm(sock: socket.socket, deadline: Deadline) -> None:
    left = deadline.arm()
    if left <= 0:
        raise Passed
    sock.settimeout(left)


class HttpReply:
    """A response whose body is still to be read. Close it, or use it as a context manager."""

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket) -> None:
        self._response = response
        self._sock = sock
        self._left = response.length  # bytes of the body to come; None: that is not said
        self.status = response.status

    def header(self, name: str) -> str:
        """Return a header's value, or an empty text."""
        return self._response.headers.get(name) or ""

    def body(self) -> bytes:
        """Return the whole body."""
        data = b"".join(self._pieces())
        if self._left:
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
        except http.client.IncompleteRead:
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
        while piece := self._piece():
            try:
                part = unpacker.decompress(piece, BODY_BYTES_MAX) if unpacker else piece
            except zlib.error as error:
                raise HTTPException(f"an answer that cannot be unpacked: {error}") from error
            total += len(part)
            if total > BODY_BYTES_MAX or (unpacker and unpacker.unconsumed_tail):
                raise HTTPException(f"a body of more than {BODY_BYTES_MAX} bytes")
            yield part

    def _piece(self) -> bytes:
        """Return what has come. Counts for itself: until 3.12 `read1` does not."""
        if self._left is None:
            return self._response.read1(PIECE_BYTES)
        piece = self._response.read1(min(PIECE_BYTES, self._left)) if self._left else b""
        self._left -= len(piece)
        return piece

    def __enter__(self) -> "HttpReply":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self._response.close()
        self._sock.close()


def _encrypted(sock: socket.socket, host: str) -> ssl.SSLSocket:
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
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
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._stop = threading.Event()

    def send(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Send a request and return the reply once its headers are there.

        Raises:
            Stopped: `cut` was called.
            ModelError: a test may not call it.
            ModelMisconfigured: the server's certificate, or TLS itself, does not hold.
            Passed: the deadline has passed.
            OSError, HTTPException: refused, reset, or not HTTP.
        """
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        self.check()
        if only is not None and (host, port) not in only:
            raise ModelError(
                f"no model may be called here, and {host}:{port} is no fake server",
                hint="use the doubles of agentd.testing, or mark the test agentd_online",
            )
        sock = socket.create_connection(
            (host, port), timeout=max(0.01, min(CONNECT_S, deadline.left()))
        )
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sock = sock
            self.check()
            if secure:
                sock = _encrypted(sock, host)
                with self._lock:
                    self._sock = sock
                self.check()
            connection = http.client.HTTPConnection(host, port)
            connection.sock = _Socket(sock, deadline)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, {**(headers or {}), "Connection": "close"})
            return HttpReply(connection.getresponse(), sock)
        except BaseException:
            sock.close()
            self.check()
            raise

    def check(self) -> None:
        """Raise Stopped if `cut` was called."""
        if self._stop.is_set():
            raise Stopped("the call to the model was stopped")

    def wait(self, seconds: float) -> None:
        """Wait, unless `cut` is called: then raise Stopped."""
        self._stop.wait(seconds)
        self.check()

    def cut(self) -> None:
        """End the running exchange and refuse further ones. Safe from any thread."""
        self._stop.set()
        with self._lock:
            sock = self._sock
        if sock is not None:
            try:
                # close() would leave the other thread's recv blocked; SSLSocket.shutdown would
                # drop the TLS state under that thread, so shut the plain socket below it
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return  # it was over already
