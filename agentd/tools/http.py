"""Web pages: GET of text from the hosts that the agent's permissions name.

Every host, also that of a redirect, must be listed, and resolve to public addresses only; the
connection goes to the very address that was checked. A private address must be listed as such.
"""

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from pydantic import Field

from agentd.agent import Result
from agentd.errors import PermissionRefused, ToolError
from agentd.macos.privacy import network_hint
from agentd.tools.base import Args, Tool, ToolCall, cut_text
from agentd.tools.connect import connect, is_public, look_up

BODY_BYTES = 1_000_000
CHUNK_BYTES = 65_536
REDIRECTS = 5
PORTS = {"http": 80, "https": 443}
TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml")
TOLD_CHARACTERS = 200  # of what a server said, in an error
URL_CHARACTERS = 2_000  # of a redirect; a longer one is cut
HOST_CHARACTERS = 253  # RFC 1035
HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})")
# By the labels of the WHATWG's Encoding Standard, as far as pages use them. Not whatever codec
# Python knows: some of those are no encodings, and some need a minute for a megabyte.
ENCODINGS = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1"), "cp1252"),
    **dict.fromkeys(("windows-1252", "cp1252", "us-ascii", "ascii"), "cp1252"),
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **{f"windows-125{part}": f"cp125{part}" for part in (0, 1, 3, 4, 5, 6, 7, 8)},
    **{"iso-8859-9": "cp1254", "latin2": "iso8859-2", "latin9": "iso8859-15", "cp1251": "cp1251"},
    **{"koi8-r": "koi8-r", "koi8-u": "koi8-u", "ibm866": "cp866", "macintosh": "mac-roman"},
    **{"shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "euc-jp": "euc-jp"},
    **{"euc-kr": "cp949", "ks_c_5601-1987": "cp949", "big5": "big5hkscs", "tis-620": "cp874"},
    **{"gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "windows-874": "cp874"},
    **{"utf-16": "utf-16", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be"},
}
HEADERS = {
    "User-Agent": "agentd",
    "Accept": "text/*, application/json;q=0.9, */*;q=0.1",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


class HttpGet(Args):
    """Fetch a text page."""

    url: str = Field(min_length=8, max_length=300)


@dataclass(frozen=True)
class Target:
    """A checked URL."""

    scheme: str
    host: str  # ASCII, lower case, without brackets
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL as it is fetched."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def check_url(url: str, listed: Sequence[str]) -> Target:
    """Return the URL's parts if its host is listed.

    "host" lists the scheme's own port, "host:port" that port.

    Raises:
        PermissionRefused: the host, or that port of it, is not listed.
        ToolError: no http or https URL, or one that carries a password.
    """
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise ToolError("a URL holds no spaces or control characters")
    try:
        parts = urlsplit(url)
        host = _ascii(parts.hostname or "")
        port, path = parts.port, _path(parts)
    except (ValueError, UnicodeError) as error:
        raise ToolError(f"not a URL: {error}"[:TOLD_CHARACTERS]) from error
    if parts.scheme not in PORTS or not host:
        raise ToolError("not a URL: write http://host/path or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ToolError("a URL carries no user name or password")
    target = Target(parts.scheme, host, port or PORTS[parts.scheme], path)
    if not any(_lists(entry, target) for entry in listed):
        names = ", ".join(listed) or "nothing"
        raise PermissionRefused(f"{host}:{target.port} may not be fetched; only {names}")
    return target


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{path}?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else path


def _ascii(host: str) -> str:
    """Return a host as it is looked up: ASCII, lower case.

    Raises:
        ValueError: it can be none.
    """
    if len(host) > HOST_CHARACTERS:
        raise ValueError("its host is too long")
    name = host.encode("idna").decode("ascii").lower().rstrip(".")
    if name and ":" not in name and not HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no host")
    return name


def _entry(entry: str) -> tuple[str, int | None]:
    """Split a listed "host" or "host:port"; an IPv6 address with a port needs its brackets."""
    if entry.count(":") > 1 and not entry.startswith("["):
        return entry.lower(), None
    with suppress(ValueError):
        parts = urlsplit(f"//{entry}")
        return _ascii(parts.hostname or ""), parts.port
    return "", None


def listed_host(entry: str) -> str:
    """Return the host of an entry of `net` as a URL writes it, with its port; "" for none."""
    host, port = _entry(entry)
    bracketed = f"[{host}]" if ":" in host else host
    return f"{bracketed}:{port}" if host and port else bracketed


def _lists(entry: str, target: Target) -> bool:
    host, port = _entry(entry)
    return host == target.host and target.port == (port or PORTS[target.scheme])


def addresses(target: Target, listed: Sequence[str], call: ToolCall) -> list[str]:
    """Resolve the host; every address must be public, or listed itself, or the host `localhost`.

    Raises:
        PermissionRefused: an address is not public.
        ToolError: the name does not resolve, or not in time.
    """
    found = look_up(target.host, target.port, call)
    for text in found:
        own = target.host == "localhost" and ipaddress.ip_address(text).is_loopback
        literal = Target(target.scheme, text, target.port, "/")
        if not (own or is_public(text) or any(_lists(entry, literal) for entry in listed)):
            raise PermissionRefused(f"{target.host} leads to {text}, which is not public")
    return found


@contextmanager
def _connected(target: Target, listed: Sequence[str], call: ToolCall) -> Iterator[socket.socket]:
    """Connect to a checked address; a stop or the deadline shuts the socket down."""
    if call.connect is not None:
        with call.connect(target.url) as given:
            yield given
        return
    error: OSError | None = None
    plain = None
    found = addresses(target, listed, call)
    for number, address in enumerate(found):
        call.check()
        try:  # one that never answers leaves time for the others
            plain = connect(address, target.port, call, call.left_s / (len(found) - number))
            break
        except OSError as problem:
            error = problem
    if plain is None:
        hint = network_hint(error)
        told = f"{error} ({hint})" if hint else error
        raise ToolError(f"{target.url} cannot be reached: {told}") from error

    def shut() -> None:
        with suppress(OSError):
            plain.shutdown(socket.SHUT_RDWR)

    with plain, call.interrupting(shut):
        if target.scheme == "http":
            yield plain
            return
        context = ssl.create_default_context()
        # The wrapper takes the descriptor over; shutting a duplicate down reaches it all the same.
        with (
            plain.dup() as inner,
            context.wrap_socket(inner, server_hostname=target.host) as wrapped,
        ):
            yield wrapped


def http_get(args: HttpGet, call: ToolCall) -> Result:
    """Fetch the page, through at most `REDIRECTS` redirects; give status, address and text."""
    listed = call.permissions.net
    url = args.url
    for _ in range(REDIRECTS + 1):
        target = check_url(url, listed)
        try:
            with _connected(target, listed, call) as connected:
                answer = _get(connected, target, call)
            if isinstance(answer, Result):
                return answer
            url = urljoin(target.url, answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # A server may answer with anything.
            raise ToolError(f"{target.url} failed: {_told(error)}") from error
    raise ToolError(f"{args.url} redirects more than {REDIRECTS} times")


def _told(error: Exception | str) -> str:
    """Return what a server said as one clean line."""
    text = "".join(c if c.isprintable() else " " for c in str(error) or type(error).__name__)
    return text if len(text) <= TOLD_CHARACTERS else f"{text[:TOLD_CHARACTERS]}..."


def _get(connected: socket.socket, target: Target, call: ToolCall) -> Result | str:
    """Return the page, or where it redirects to."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = connected  # never connects by itself: no proxy, no second look-up
    connection.auto_open = 0
    host = target.url.split("/")[2]
    connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": host, **HEADERS}.items():
        connection.putheader(name, value)
    connection.endheaders()
    with connection.getresponse() as response:
        location = response.getheader("Location")
        if response.status in (301, 302, 303, 307, 308) and location:
            # Header fields are read as latin-1, and mostly written as UTF-8.
            return location[:URL_CHARACTERS].encode("latin-1").decode("utf-8", "replace")
        if response.status != 200:
            raise ToolError(f"{target.url} answered {response.status} {_told(response.reason)}")
        kind = response.getheader("Content-Type", "text/plain").lower()
        if not kind.startswith(TEXT_TYPES) and not kind.split(";")[0].endswith(("+json", "+xml")):
            raise ToolError(f"{target.url} is no text but {_told(kind)}")
        if not _is_plain(response):
            raise ToolError(f"{target.url} came compressed, which was not asked for")
        data, whole = _body(response, call)
    label = CHARSET.search(kind)
    text = data.decode(ENCODINGS.get(label[1] if label else "", "utf-8"), "replace")
    if "\0" in text:
        raise ToolError(f"{target.url} is binary")
    page = {"url": target.url, "text": cut_text(text.removeprefix("\ufeff"))}
    if not whole:
        page["more"] = f"only the first {BODY_BYTES} bytes were fetched"
    return Result(page, trusted=False)


def _is_plain(response: http.client.HTTPResponse) -> bool:
    """Whether the body comes as it is, but for chunks that http.client takes apart itself.

    It does so for the one word `chunked` alone, and hands on what else a server names as text.
    """
    encoded = _codings(response, "Content-Encoding")
    sent = _codings(response, "Transfer-Encoding")
    return not encoded and sent == (["chunked"] if response.chunked else [])


def _codings(response: http.client.HTTPResponse, field: str) -> list[str]:
    """Return what a header field names, in all its lines: nothing at all is no coding."""
    lines = response.headers.get_all(field, ())
    words = (word.strip().lower() for line in lines for word in str(line).split(","))
    return [word for word in words if word not in ("", "identity")]


def _body(response: http.client.HTTPResponse, call: ToolCall) -> tuple[bytes, bool]:
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        call.check()
        data += chunk
        if len(data) > BODY_BYTES:
            return bytes(data[:BODY_BYTES]), False
    return bytes(data), True


TOOLS = (Tool("HttpGet", HttpGet, "net", idempotent=True, trusted=False, run=http_get),)
