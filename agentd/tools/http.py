"""Web pages: GET of text from the hosts that the agent's permissions name.

Every host, also that of a redirect, must be listed, and resolve to public addresses only; the
connection goes to the very address that was checked. A private address must be listed as such.
"""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from pydantic import Field

from agentd.agent import Result
from agentd.errors import PermissionRefused, ToolError
from agentd.privacy import network_hint
from agentd.tools.base import Args, Call, Tool, cut_text

BODY_BYTES = 1_000_000
CHUNK_BYTES = 65_536
REDIRECTS = 5
PORTS = {"http": 80, "https": 443}
TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HEADERS = {
    "User-Agent": "agentd",
    "Accept": "text/*, application/json;q=0.9, */*;q=0.1",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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
        host = (parts.hostname or "").encode("idna").decode("ascii").rstrip(".")
        port = parts.port
    except (ValueError, UnicodeError) as error:
        raise ToolError(f"not a URL: {error}") from error
    if parts.scheme not in PORTS or not host:
        raise ToolError("not a URL: write http://host/path or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ToolError("a URL carries no user name or password")
    target = Target(parts.scheme, host, port or PORTS[parts.scheme], _path(parts))
    if not any(_lists(entry, target) for entry in listed):
        names = ", ".join(listed) or "nothing"
        raise PermissionRefused(f"{host}:{target.port} may not be fetched; only {names}")
    return target


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{path}?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else path


def _entry(entry: str) -> tuple[str, int | None]:
    """Split a listed "host" or "host:port"; an IPv6 address with a port needs its brackets."""
    if entry.count(":") > 1 and not entry.startswith("["):
        return entry.lower(), None
    with suppress(ValueError):
        parts = urlsplit(f"//{entry}")
        return (parts.hostname or "").rstrip("."), parts.port
    return "", None


def listed_host(entry: str) -> str:
    """Return the host of an entry of `net` as a URL writes it, with its port; "" for none."""
    host, port = _entry(entry)
    bracketed = f"[{host}]" if ":" in host else host
    return f"{bracketed}:{port}" if host and port else bracketed


def _lists(entry: str, target: Target) -> bool:
    host, port = _entry(entry)
    return host == target.host and target.port == (port or PORTS[target.scheme])


def addresses(target: Target, listed: Sequence[str]) -> list[str]:
    """Resolve the host; every address must be public, or listed itself, or the host `localhost`.

    Raises:
        PermissionRefused: an address is private, loopback or link-local.
        ToolError: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ToolError(f"{target.host} does not resolve: {error}") from error
    result = list(dict.fromkeys(str(item[4][0]) for item in found))
    for text in result:
        address = ipaddress.ip_address(text.partition("%")[0])
        if _public(address) or (target.host == "localhost" and address.is_loopback):
            continue
        literal = Target(target.scheme, text, target.port, "/")
        if not any(_lists(entry, literal) for entry in listed):
            raise PermissionRefused(f"{target.host} leads to {text}, which is not public")
    return result


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None:
            inner = address.teredo[1]
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _public(inner)
    return address.is_global and not address.is_multicast


@contextmanager
def _connected(target: Target, listed: Sequence[str], call: Call) -> Iterator[socket.socket]:
    """Connect to a checked address; a stop or the deadline shuts the socket down."""
    if call.connect is not None:
        with call.connect(target.url) as given:
            yield given
        return
    error: OSError | None = None
    plain = None
    for address in addresses(target, listed):
        call.check()
        try:
            plain = socket.create_connection((address, target.port), max(0.001, call.left_s))
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


def http_get(args: HttpGet, call: Call) -> Result:
    """Fetch the page, through at most `REDIRECTS` redirects; give status, address and text."""
    listed = call.permissions.net
    url = args.url
    for _ in range(REDIRECTS + 1):
        target = check_url(url, listed)
        try:
            with _connected(target, listed, call) as connected:
                answer = _get(connected, target, call)
        except (OSError, http.client.HTTPException) as error:
            raise ToolError(f"{target.url} failed: {error or type(error).__name__}") from error
        if isinstance(answer, Result):
            return answer
        url = urljoin(target.url, answer)
    raise ToolError(f"{args.url} redirects more than {REDIRECTS} times")


def _get(connected: socket.socket, target: Target, call: Call) -> Result | str:
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
            return location
        if response.status != 200:
            raise ToolError(f"{target.url} answered {response.status} {response.reason}")
        kind = response.getheader("Content-Type", "text/plain").lower()
        if not kind.startswith(TEXT_TYPES) and not kind.split(";")[0].endswith(("+json", "+xml")):
            raise ToolError(f"{target.url} is no text but {kind}")
        if response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise ToolError(f"{target.url} came compressed, which was not asked for")
        data, whole = _body(response, call)
        charset = response.headers.get_content_charset("utf-8")
    try:
        text = data.decode(charset, "replace")
    except LookupError:
        text = data.decode("utf-8", "replace")
    if "\0" in text:
        raise ToolError(f"{target.url} is binary")
    page = {"url": target.url, "text": cut_text(text)}
    if not whole:
        page["more"] = f"only the first {BODY_BYTES} bytes were fetched"
    return Result(page, trusted=False)


def _body(response: http.client.HTTPResponse, call: Call) -> tuple[bytes, bool]:
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        call.check()
        data += chunk
        if len(data) > BODY_BYTES:
            return bytes(data[:BODY_BYTES]), False
    return bytes(data), True


TOOLS = (Tool("HttpGet", HttpGet, "net", idempotent=True, trusted=False, run=http_get),)
