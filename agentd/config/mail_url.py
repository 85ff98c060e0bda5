"""Where an account's mail is: `imaps://USER@HOST/FOLDER`. The fetcher reads it, too."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

WRITTEN = 'write it as "imaps://ada@imap.example.org/INBOX"; in a user name @ is %40'


@dataclass(frozen=True)
class MailUrl:
    """The parts of such a URL."""

    scheme: str
    user: str
    host: str
    port: int | None  # None: the scheme's own
    folder: str

    @classmethod
    def of(cls, text: str) -> "MailUrl":
        """Read one; without a folder it is the INBOX.

        Raises:
            ValueError: it is none, holds a password, or would send one unencrypted.
        """
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        user, folder = unquote(parts.username or ""), unquote(parts.path.strip("/")) or "INBOX"
        if parts.password is not None:
            raise ValueError("a password stands in no URL: give its secret in `password`")
        if parts.scheme not in ("imap", "imaps") or not (host and user):
            raise ValueError(f"{text[:80]!r} is no address of a mailbox: {WRITTEN}")
        if parts.query or parts.fragment or not (user + folder).isprintable():
            raise ValueError(f"{text[:80]!r} holds what no mailbox has: {WRITTEN}")
        if parts.scheme == "imap" and not _is_loopback(host):
            raise ValueError(f"imap:// would send the password to {host} unencrypted: use imaps://")
        return cls(parts.scheme, user, host, port, folder)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
