"""Pages and other files of the web: GET from the hosts that the agent's permissions name.

Every host, also that of a redirect, must be listed, and resolve to public addresses only; the
connection goes to the very address that was checked. A private address must be listed as such.
"""

import ipaddress
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from agentd.config.mail_url import MailUrl
from agentd.errors import PermissionRefused, ToolError
from agentd.events import Result
from agentd.macos.privacy import network_hint
from agentd.net.connection import connected, look_up_in_time
from agentd.net.exchange import (
    BROKEN,
    PORTS,
    Response,
    Stream,
    authority,
    bracketed,
    exchange,
)
from agentd.net.wait import Deadline, Passed, Waiter
from agentd.secret_rules import hide
from agentd.tools.base import ToolCall, clean_line, cut_text
from agentd.tools.charsets import charset
from agentd.tools.public import is_public

SCHEMES = ("http", "https")
BODY_BYTES = 1_000_000
FETCH_BYTES = 4_000_000  # in base64 and JSON, within a frame of 16 MB
REDIRECTS = 5
TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml")
TOLD_CHARACTERS = 200  # of what a server said, in an error
URL_CHARACTERS = 2_000  # of a redirect; a longer one is cut
HOST_CHARACTERS = 253  # RFC 1035
LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = re.compile(rf"{LABEL}(\.{LABEL})*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as a last label: the host is an IPv4 address, or none
# A slash at the end is a habit.
ENTRY = re.compile(r"(\[(?P<six>[^]]*:[^]]*)\]|(?P<host>[^][/?#@:\\]+))(:(?P<port>[0-9]{1,5}))?/?")
PORT_NUMBERS = range(1, 65536)
HEADERS = {
    "User-Agent": "agentd",
    "Accept": "text/*, application/json;q=0.9, */*;q=0.1",
}


@dataclass(frozen=True)
class Target:
    """A checked URL."""

    scheme: str
    host: str  # ASCII, lower case, without brackets
    port: int
    path: str

    @classmethod
    def of_mail(cls, url: MailUrl) -> "Target":
        """Return the server of a mailbox.

        Raises:
            ValueError: its host can be none.
        """
        return cls(url.scheme, ascii_host(url.host), url.port or PORTS[url.scheme], "/")

    @property
    def url(self) -> str:
        """The URL as it is fetched."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """The host as the URL writes it, with its port."""
        return authority(self.scheme, self.host, self.port)


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
        host = ascii_host(parts.hostname or "")
        port, path = parts.port, _path(parts)
    except (ValueError, UnicodeError) as error:
        raise ToolError(f"not a URL: {error}"[:TOLD_CHARACTERS]) from error
    if parts.scheme not in SCHEMES or not host:
        raise ToolError("not a URL: write http://host/path or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ToolError("a URL carries no user name or password")
    target = Target(parts.scheme, host, port or PORTS[parts.scheme], path)
    check_listed(target, listed)
    return target


def check_listed(target: Target, listed: Sequence[str]) -> None:
    """Raise PermissionRefused unless this host, and this port of it, is listed."""
    if not any(_lists(entry, target) for entry in listed):
        names = ", ".join(listed) or "nothing"
        raise PermissionRefused(f"{target.host}:{target.port} may not be fetched; only {names}")


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{path}?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else path


def ascii_host(host: str) -> str:
    """Return a host as it is looked up: ASCII, lower case.

    Raises:
        ValueError: it can be none.
    """
    if len(host) > HOST_CHARACTERS:
        raise ValueError("its host is too long")
    name = host.encode("idna").decode("ascii").lower().rstrip(".")
    if ":" in name:
        return str(ipaddress.IPv6Address(name))
    if name and not HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no host")
    if NUMBER.fullmatch(name.rpartition(".")[2]):  # else the system reads 1.2.3 as 1.2.0.3
        return str(ipaddress.IPv4Address(name))
    return name


def _entry(entry: str) -> tuple[str, int | None]:
    """Split a listed "host" or "host:port"; an IPv6 address with a port needs its brackets.

    What else a URL may hold would not hold here: a path allows no less than the whole host.
    """
    with suppress(ValueError):
        if entry.count(":") > 1 and not entry.startswith("["):
            return ascii_host(entry), None
        if (parts := ENTRY.fullmatch(entry)) and (port := int(parts["port"] or 1)) in PORT_NUMBERS:
            return ascii_host(parts["six"] or parts["host"]), port if parts["port"] else None
    return "", None


def listed_host(entry: str) -> str:
    """Return the host of an entry of `net` as a URL writes it, with its port; "" for none."""
    host, port = _entry(entry)
    return bracketed(host, port) if host else ""


def _lists(entry: str, target: Target) -> bool:
    host, port = _entry(entry)
    return host == target.host and target.port == (port or PORTS[target.scheme])


def addresses(target: Target, listed: Sequence[str], waiter: Waiter) -> list[str]:
    """Resolve the host; every address must be public, or listed itself, or the host `localhost`.

    Raises:
        PermissionRefused: an address is not public.
        ToolError: the name does not resolve.
        Stopped, Passed: see `Waiter.left`.
    """
    try:
        found = look_up_in_time(target.host, target.port, waiter)
    except Passed:
        raise
    except (OSError, UnicodeError) as error:
        raise ToolError(f"{target.host} does not resolve: {error}") from error
    for text in found:
        own = target.host == "localhost" and ipaddress.ip_address(text).is_loopback
        literal = Target(target.scheme, text, target.port, "/")
        if not (own or is_public(text) or any(_lists(entry, literal) for entry in listed)):
            raise PermissionRefused(f"{target.host} leads to {text}, which is not public")
    return found


@contextmanager
def connection_to(target: Target, listed: Sequence[str], call: ToolCall) -> Iterator[Stream]:
    """Connect to a checked address; a stop or the deadline ends every wait."""
    if call.connect is not None:
        with call.connect(target.url) as given:
            yield given
        return
    with ExitStack() as stack:
        deadline = Deadline(call.clock, call.left_s)
        waiter = stack.enter_context(Waiter.of(deadline, call.cancel))
        found = addresses(target, listed, waiter)
        try:
            connection = stack.enter_context(connected(found, target.port, waiter))
        except OSError as error:
            call.check()
            hint = network_hint(error)
            told = f"{error} ({hint})" if hint else error
            raise ToolError(f"{hide(target.url)} cannot be reached: {told}") from error
        if target.scheme in ("https", "imaps"):
            connection.encrypt(target.host)
        yield connection


def http_get(call: ToolCall, url: str) -> Result:
    """Fetch the page, through at most `REDIRECTS` redirects; give address and text."""
    return _followed(call, url, HEADERS, _page)


def fetch(
    call: ToolCall, url: str, limit: int, etag: str | None = None, modified: str | None = None
) -> Result:
    """Fetch the bytes of whatever there is, as they are: at most `limit`, in base64.

    With the `etag` or `modified` of the last time the status may be 304: nothing is new. `charset`
    is Python's name of the encoding that the server says, or empty. `cut`: there was more.
    """
    since = {"If-None-Match": etag, "If-Modified-Since": modified}
    headers = {**HEADERS, "Accept": "*/*", **{key: text for key, text in since.items() if text}}
    return _followed(call, url, headers, partial(_bytes, min(limit, FETCH_BYTES)))


def _followed(
    call: ToolCall,
    url: str,
    headers: Mapping[str, str],
    read: Callable[[Response, Target], Result],
) -> Result:
    """Return what `read` makes of the reply, after redirects to listed hosts."""
    listed = call.permissions.net
    asked = url
    for _ in range(REDIRECTS + 1):
        target = check_url(url, listed)
        try:
            with connection_to(target, listed, call) as connected:
                reply = exchange(connected, "GET", target.authority, target.path, headers)
                location = reply.header("Location")
                if reply.status not in (301, 302, 303, 307, 308) or not location:
                    return read(reply, target)
            # Header fields are read as latin-1, and mostly written as UTF-8.
            place = location[:URL_CHARACTERS].encode("latin-1").decode("utf-8", "replace")
            url = urljoin(target.url, place)
        except (*BROKEN, ValueError) as error:  # a server may answer with anything
            call.check()
            told = clean_line(str(error) or type(error).__name__, TOLD_CHARACTERS)
            raise ToolError(f"{hide(target.url)} failed: {told}") from error
    raise ToolError(f"{asked} redirects more than {REDIRECTS} times")


def _page(reply: Response, target: Target) -> Result:
    _check_status(reply, target, 200)
    kind = (reply.header("Content-Type") or "text/plain").lower()
    if not kind.startswith(TEXT_TYPES) and not kind.split(";")[0].endswith(("+json", "+xml")):
        raise ToolError(f"{hide(target.url)} is no text but {clean_line(kind, TOLD_CHARACTERS)}")
    data, whole = _body(reply, target, BODY_BYTES)
    text = data.decode(charset(kind) or "utf-8", "replace")
    if "\0" in text:
        raise ToolError(f"{hide(target.url)} is binary")
    page = {"url": target.url, "text": cut_text(text.removeprefix("\ufeff"))}
    if not whole:
        page["more"] = f"only the first {BODY_BYTES} bytes were fetched"
    return Result(page, trusted=False)


def _bytes(limit: int, reply: Response, target: Target) -> Result:
    _check_status(reply, target, 200, 304)
    kind = reply.header("Content-Type").lower()
    data, whole = (b"", True) if reply.status == 304 else _body(reply, target, limit)
    etag, modified = (reply.header(name) for name in ("ETag", "Last-Modified"))
    value = {
        "url": target.url,
        "status": reply.status,
        "type": clean_line(kind.partition(";")[0].strip(), TOLD_CHARACTERS),
        "charset": charset(kind),
        # A longer one is not remembered: then all is fetched again.
        "etag": etag if len(etag) <= TOLD_CHARACTERS else "",
        "modified": modified if len(modified) <= TOLD_CHARACTERS else "",
        "data": b64encode(data).decode("ascii"),
        "cut": not whole,
    }
    return Result(value, trusted=False)


def _check_status(reply: Response, target: Target, *wanted: int) -> None:
    if reply.status not in wanted:
        reason = clean_line(reply.reason, TOLD_CHARACTERS)
        raise ToolError(f"{hide(target.url)} answered {reply.status} {reason}")


def _body(reply: Response, target: Target, limit: int) -> tuple[bytes, bool]:
    """Return the body, and whether that is all of it."""
    if not reply.is_plain:
        raise ToolError(f"{hide(target.url)} came compressed, which was not asked for")
    data = bytearray()
    for piece in reply.pieces():
        data += piece
        if len(data) > limit:
            return bytes(data[:limit]), False
    return bytes(data), True
