"""The head of a request to a proxy: RFC 9110, 9.3.6 (CONNECT) and RFC 9112, 3.2.2 (a whole URL)."""

import base64
import binascii
import re
from dataclasses import dataclass

from agentd.errors import ToolError

HEAD_BYTES_MAX = 32_768
END = b"\r\n\r\n"
AUTHORITY = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)
# They speak of the connection to us, or are ours to say.
OURS = ("host", "connection", "proxy-connection", "proxy-authorization", "keep-alive", "upgrade")


@dataclass(frozen=True)
class ProxyHead:
    """What a program asks of its proxy."""

    method: str
    url: str  # of CONNECT: https, with the path "/"
    secret: str  # "" where it shows none
    fields: tuple[str, ...]  # the lines that are for the server

    @property
    def connects(self) -> bool:
        """Whether it wants a connection, and no answer."""
        return self.method == "CONNECT"

    def for_server(self, authority: str, path: str) -> bytes:
        """Return it as the server gets it: one request, and then the connection ends."""
        line = f"{self.method} {path} HTTP/1.1"
        lines = (line, f"Host: {authority}", *self.fields, "Connection: close")
        return "\r\n".join(lines).encode("latin-1") + END


def read_head(data: bytes) -> ProxyHead:
    """Read a head without its end.

    Raises:
        ToolError: it is none.
    """
    line, *fields = data.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ToolError("this is a proxy for HTTP/1.1, and that is no request of it")
    method, target, _ = words
    if method == "CONNECT":
        if not AUTHORITY.fullmatch(target):
            raise ToolError("CONNECT wants a host and a port")
        target = f"https://{target}/"
    elif not target.startswith("http://"):
        raise ToolError("this is a proxy: ask for http://host/path, or CONNECT")
    secret, kept = "", []
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon or not name or name != name.strip():
            raise ToolError("a header field that is none")
        if name.lower() == "proxy-authorization":
            secret = _secret(value)
        if name.lower() not in OURS:
            kept.append(field)
    return ProxyHead(method, target, secret, tuple(kept))


def _secret(value: str) -> str:
    """Return the password of Basic credentials (RFC 7617), "" without one."""
    scheme, _, given = value.strip().partition(" ")
    try:
        text = base64.b64decode(given, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[2] if scheme.lower() == "basic" else ""
