"""One HTTP exchange over a connection: a request, and a reply whose body is read as it comes.

http.client reads heads and chunks, with its own bounds: 64 KiB a line and 100 fields. No HTTP
library beside it: httpx costs a worker 25 MB.
"""

import http.client
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

HTTPException = http.client.HTTPException
BROKEN = (OSError, HTTPException)  # refused, reset, cut off, not HTTP
PORTS = {"http": 80, "https": 443, "imap": 143, "imaps": 993}
PIECE_BYTES = 65_536
TAIL_PIECES = 8  # that are read of a body that nobody wanted to its end


class Stream(Protocol):
    """What http.client needs of a connection: see `ClientConnection`."""

    def makefile(self, mode: str) -> Any: ...  # noqa: D102
    def sendall(self, data: bytes, /) -> object: ...  # noqa: D102
    def close(self) -> object: ...  # noqa: D102


def bracketed(host: str, port: int | None = None) -> str:
    """Return a host as a URL writes it: an IPv6 address in brackets, a port behind it."""
    written = f"[{host}]" if ":" in host else host
    return written if port is None else f"{written}:{port}"


def place_of(url: str) -> str:
    """Return what a checked http URL leads to, as `net` lists that place alone: "host:port"."""
    parts = urlsplit(url)
    return bracketed(parts.hostname or "", parts.port or PORTS[parts.scheme])


def authority(scheme: str, host: str, port: int) -> str:
    """Return a server's name as its URLs and the Host field write it."""
    return bracketed(host, None if port == PORTS[scheme] else port)


class Response:
    """A reply whose body is still to be read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.missing = response.length  # bytes of the body to come; None: that is not said
        self.status = response.status
        self.reason = response.reason

    def header(self, name: str) -> str:
        """Return a header's value, or an empty text."""
        return self._response.headers.get(name) or ""

    @property
    def is_plain(self) -> bool:
        """Whether the body comes as it is, but for chunks that http.client takes apart itself.

        It does so for the one word `chunked` alone, and hands on what else a server names as text.
        """
        encoded = self._codings("Content-Encoding")
        sent = self._codings("Transfer-Encoding")
        return not encoded and sent == (["chunked"] if self._response.chunked else [])

    def _codings(self, field: str) -> list[str]:
        """Return what a header field names, in all its lines: nothing at all is no coding."""
        lines = self._response.headers.get_all(field, ())
        words = (word.strip().lower() for line in lines for word in str(line).split(","))
        return [word for word in words if word not in ("", "identity")]

    @property
    def keeps(self) -> bool:
        """Whether the server means to keep the connection."""
        return not self._response.will_close

    def ends_well(self) -> bool:
        """Whether the reply of a kept connection is over, once what little is left of it is read.

        Raises: see `pieces`.
        """
        rest = sum(map(len, itertools.islice(self.pieces(), TAIL_PIECES)))
        return rest <= PIECE_BYTES and (self._response.isclosed() or self.missing == 0)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes. One that is cut off ends early: something is `missing`.

        Raises:
            HTTPException: a body in chunks is cut off, or is none.
            Stopped, Passed, OSError: see `ClientConnection`.
        """
        while piece := self._piece():
            yield piece

    def _piece(self) -> bytes:
        """Return what has come. Counts for itself: until 3.12 `read1` does not."""
        if self.missing is None:
            return self._response.read1(PIECE_BYTES)
        piece = self._response.read1(min(PIECE_BYTES, self.missing)) if self.missing else b""
        self.missing -= len(piece)
        return piece


def exchange(
    stream: Stream,
    method: str,
    host: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Response:
    """Send a request to `host`, an authority, and return the reply once its head is there.

    It goes over this one stream: there is no proxy, and no second look at the name.

    Raises:
        HTTPException, ValueError: what answers does not speak HTTP; or it is no request.
        Stopped, Passed, OSError: see `ClientConnection`.
    """
    connection = http.client.HTTPConnection(host)
    connection.sock = request = _WholeRequest(stream)
    connection.auto_open = 0
    fields = {"Host": host, "Accept-Encoding": "identity", "Connection": "close", **headers}
    connection.request(method, target, body, fields)
    request.send()
    return Response(connection.getresponse())


class _WholeRequest:
    """A request on its way to its stream: http.client would send head and body apart."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self.makefile, self.close = stream.makefile, stream.close

    def sendall(self, data: bytes, /) -> None:
        self._parts.append(data)

    def send(self) -> None:
        self._stream.sendall(b"".join(self._parts))
