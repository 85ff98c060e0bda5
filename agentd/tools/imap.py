"""Mail of an IMAP server, as the fetcher gets it: raw, read-only, and left as it was.

No mail is parsed here. What a server says is bounded in bytes and in time, whatever it announces.
"""

import imaplib
import re
import ssl
from base64 import b64encode
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from imap_tools.errors import ImapToolsError, MailboxFetchError, MailboxLoginError
from imap_tools.mailbox import BaseMailBox
from imap_tools.utils import check_command_status

from agentd.config.mail_url import MailUrl
from agentd.errors import ToolError
from agentd.events import Result
from agentd.net.exchange import Stream
from agentd.secret_rules import REDACTED
from agentd.tools.base import ToolCall, clean_line
from agentd.tools.http import TOLD_CHARACTERS, Target, check_listed, connection_to
from agentd.tools.mail import MESSAGE_BYTES

MESSAGES_BYTES = 4_000_000  # of one call, within a frame of 16 MB once they are in base64
ANSWER_BYTES = 8_000_000  # that a server may send in one call, whatever it is
NEWEST = 50  # mails that are looked at where no number is known
LEFT_S = 8.0  # to go on with what was fetched so far, rather than to begin another mail
ECHO_CHARACTERS = 2_000  # of what a server says that may tell what was sent to it
PART = 8  # characters of a password, as it was sent, that tell something of it
HEAD = "BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]"
WHOLE = f"BODY.PEEK[]<0.{MESSAGE_BYTES}>"  # PEEK: it does not count as read
BROKEN = (imaplib.IMAP4.error, ImapToolsError, OSError, ValueError, LookupError, TypeError)


def fetch_mail(
    call: ToolCall, url: str, password: str, most: int, validity: int | None, uid: int | None
) -> Result:
    """Give the mails behind number `uid`, the oldest first, and the numbers for the next time.

    Without a `validity`, the first time, the Message-IDs of the newest; with another one than the
    server has by now, whose numbers began anew, the newest.
    """
    try:
        account = MailUrl.of(url)
        target = Target.of_mail(account)
    except (ValueError, UnicodeError) as error:
        raise ToolError(f"not the URL of a mailbox: {error}"[:TOLD_CHARACTERS]) from error
    check_listed(target, call.permissions.net)
    try:
        with (
            connection_to(target, call.permissions.net, call) as connection,
            _signed_in(connection, account, password) as box,
        ):
            return _new(call, box, most, validity, uid)
    except ssl.SSLCertVerificationError as error:
        raise ToolError(f"{target.url}: its certificate is not trusted: {error}") from error
    except BROKEN as error:  # a server may answer with anything
        call.check()
        raise ToolError(f"{target.url} failed: {_told(error, account.user, password)}") from error


def _told(error: Exception, user: str, password: str) -> str:
    """Return what a server said, in a line, without the password in any form that it had."""
    result = getattr(error, "command_result", ("", ()))[1]
    text = b" ".join(part for part in result if isinstance(part, bytes)).decode("utf-8", "replace")
    text = text or str(error) or type(error).__name__
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    sent = b64encode(f"\0{user}\0{password}".encode()).decode()  # by AUTHENTICATE PLAIN
    forms = {w for form in (quoted, password, sent) for w in (repr(form.encode())[2:-1], form)}
    return clean_line(_without(text[:ECHO_CHARACTERS], forms), TOLD_CHARACTERS)


def _without(text: str, forms: Collection[str]) -> str:
    """Return a text with `REDACTED` for each of these, and for long enough parts of them."""
    shown = [*text.replace("\0", " ")]
    for form in filter(None, forms):
        for start in range(max(1, len(form) - PART + 1)):
            part = form[start : start + PART]
            for found in re.finditer(f"(?={re.escape(part)})", text):
                shown[found.start() : found.start() + len(part)] = "\0" * len(part)
    return re.sub("\0+", REDACTED, "".join(shown))


class _ImapClient(imaplib.IMAP4):
    """Speaks over a connection of ours, whose waits have the call's deadline and stop."""

    def __init__(self, connection: Stream) -> None:
        self._connection, self._reader = connection, connection.makefile("rb")
        self._left = ANSWER_BYTES
        super().__init__()

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        """Do nothing: it is connected."""

    def read(self, size: int) -> bytes:
        """Return what a server announced; more than it may send is refused before it comes."""
        self._count(size)
        data: bytes = self._reader.read(size)
        return data

    def readline(self) -> bytes:
        """Return a line."""
        line: bytes = self._reader.readline(self._left + 1)
        self._count(len(line))
        return line

    def send(self, data: Any) -> None:
        """Send it."""
        self._connection.sendall(data)

    def shutdown(self) -> None:
        """Do nothing: who connected closes."""

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"it sends more than {ANSWER_BYTES} bytes")


class _ImapBox(BaseMailBox):
    def __init__(self, connection: Stream) -> None:
        self._connection = connection
        super().__init__()

    def _get_mailbox_client(self) -> imaplib.IMAP4:
        return _ImapClient(self._connection)


@contextmanager
def _signed_in(connection: Stream, account: MailUrl, password: str) -> Iterator[_ImapBox]:
    """Give the mailbox, opened for reading only."""
    box = _ImapBox(connection)
    ascii_alone = (account.user + password).isascii()
    try:
        (box.login if ascii_alone else box.login_utf8)(account.user, password, None)
    except MailboxLoginError as error:
        told = _told(error, account.user, password)
        raise ToolError(f"{account.host} refuses {account.user} or its password: {told}") from error
    box.folder.set(account.folder, readonly=True)
    yield box
    with suppress(*BROKEN):  # what was wanted is there
        box.logout()


def _new(call: ToolCall, box: _ImapBox, most: int, validity: int | None, uid: int | None) -> Result:
    now = int(box.client.response("UIDVALIDITY")[1][0])
    if now == validity and uid is not None:
        # A server gives its last mail for `*`, whatever its number is.
        uids = sorted(n for n in map(int, box.uids(f"UID {uid + 1}:*", None)) if n > uid)
        mails = _fetched(call, box, uids[:most], WHOLE)
        last = uids[len(mails) - 1] if mails else uid
        found = [data for data in mails if data is not None]
        more = len(uids) - len(mails)
    else:
        count = int(box.client.response("EXISTS")[1][0] or 0)
        uids = sorted(map(int, box.uids(f"{max(1, count - NEWEST + 1)}:*", None))) if count else []
        mails = _fetched(call, box, uids[::-1], WHOLE if validity else HEAD)
        last, more = max(uids, default=0), 0
        found = [data for data in reversed(mails) if data is not None]
    messages = [b64encode(data).decode("ascii") for data in found]
    value = {"validity": now, "uid": last, "messages": messages, "more": more}
    return Result(value, trusted=False)


def _fetched(call: ToolCall, box: _ImapBox, uids: Sequence[int], part: str) -> list[bytes | None]:
    """Return the first of these mails, as many as fit; None for one that was removed meanwhile."""
    mails, size = list[bytes | None](), 0
    for uid in uids:
        if mails and (size > MESSAGES_BYTES - MESSAGE_BYTES or call.left_s < LEFT_S):
            break
        mails.append(data := _raw(box, uid, part))
        size += len(data or b"")
    return mails


def _raw(box: _ImapBox, uid: int, part: str) -> bytes | None:
    """Return the bytes of a mail; None where it was removed meanwhile."""
    found = box.client.uid("FETCH", str(uid), f"({part})")
    check_command_status(found, MailboxFetchError)
    pieces: Sequence[object] = found[1]
    data = next((item[1] for item in pieces if isinstance(item, tuple)), None)
    return data[:MESSAGE_BYTES] if isinstance(data, bytes) else None
