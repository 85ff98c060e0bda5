"""ReadMail on a server: what is new, by a small IMAP server over real sockets."""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.config.mail_account import Account
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.testing import wait_for
from agentd.tools import imap, mail
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox
from tests.imap_server import PASSWORD, Conversation, ImapServer
from tests.test_fetcher import Fetching, fetching
from tests.test_mailboxes import a_mail
from tests.test_net import certificate, needs_openssl, trusted

__all__ = ["certificate", "fetching", "trusted"]
pytestmark = pytest.mark.agentd_online


def raw(subject: str) -> bytes:
    return bytes(a_mail(subject)).replace(b"\n", b"\r\n")


class Asking:
    """An agent's ReadMail of its account, session after session."""

    def __init__(self, server: ImapServer, fetching: Fetching | None = None) -> None:
        self.server, self.memory = server, dict[str, Any]()
        self.remotes = {}
        if fetching is not None:
            self.remotes = {"fetcher": fetching.remote("one", server.listed)}
        self.deadline_s, self.password = 20.0, PASSWORD
        self.net, self.url = server.listed, server.url
        self.tools = self.made()

    def made(self) -> Toolbox:
        return Toolbox(
            Permissions(net=(self.net,)),
            accounts={"ada": Account(url=self.url, password="secret:mail")},
            secret=lambda name: {"secret:mail": self.password}[name],
            remotes=self.remotes,
            deadline_s=self.deadline_s,
        )

    def __call__(self, **more: Any) -> Mapping[str, Any]:
        self.tools = self.made()
        self.tools.session = SessionView(memory=self.memory)
        result = self.tools.call("ReadMail", {"source": "ada", **more})
        assert not result.trusted and PASSWORD not in str(result)
        self.memory = {**self.memory, **result.remember}
        return result.value

    def subjects(self, **more: Any) -> list[str]:
        return [message["subject"] for message in self(**more)["messages"]]

    def error(self) -> str:
        with pytest.raises(ToolError) as raised:
            self()
        assert PASSWORD not in str(raised.value)
        return str(raised.value)


@pytest.fixture
def server() -> Iterator[ImapServer]:
    found = ImapServer()
    found.deliver(raw("one"), raw("two"))
    yield found
    found.close()


@pytest.fixture(params=["here", "fetcher"])
def asking(request: pytest.FixtureRequest, server: ImapServer, fetching: Fetching) -> Asking:
    return Asking(server, fetching if request.param == "fetcher" else None)


@pytest.fixture
def here(server: ImapServer) -> Asking:
    return Asking(server)


def test_none_is_new_the_first_time(asking: Asking, server: ImapServer) -> None:
    """Then each is given once, the oldest first; a cut session sees it again."""
    first = asking()
    assert first == {"source": "ada", "new": 0, "more": 0, "note": mail.FIRST, "messages": []}
    assert not any("BODY.PEEK[]" in command for command in server.told)
    assert asking() == {"source": "ada", "new": 0, "more": 0, "messages": []}
    server.deliver(raw("three"), raw("four"))
    before = asking.memory
    assert asking.subjects() == ["three", "four"]
    assert asking.subjects() == []
    asking.memory = before
    found = asking()["messages"]
    assert [message["subject"] for message in found] == ["three", "four"]
    assert found[0]["from"] == "Ada <ada@example.org>"
    assert found[0]["text"] == "Hello.\n\nFrom here on."


def test_nothing_is_marked_as_read(here: Asking, server: ImapServer) -> None:
    """The folder is examined, not selected, and bodies are peeked at."""
    here()
    server.deliver(raw("three"))
    here()
    assert 'EXAMINE "INBOX"' in server.told
    kinds = {command.removeprefix("UID ").split()[0] for command in server.told}
    assert kinds == {"CAPABILITY", "LOGIN", "EXAMINE", "SEARCH", "FETCH", "LOGOUT"}
    assert all("BODY.PEEK[" in command for command in server.told if "FETCH" in command)


def test_many_come_in_pieces(here: Asking, server: ImapServer) -> None:
    """By number, and by bytes: none is lost, and no frame is too large."""
    here()
    server.deliver(*(raw(f"new {n}") for n in range(5)))
    found = here(most=3)
    assert (found["new"], found["more"]) == (3, 2)
    assert here.subjects() == ["new 3", "new 4"]
    large = b"Subject: large\r\n\r\n" + b"x" * 2 * mail.MESSAGE_BYTES
    server.deliver(*([large] * 20))
    found = here()
    assert found["more"] and found["messages"][0]["subject"] == "large"
    left_s = here()["more"]
    assert left_s < found["more"]


def test_large_ones_go_through_a_frame(server: ImapServer, fetching: Fetching) -> None:
    """As many bytes as one call gives come by the fetcher's channel."""
    asking = Asking(server, fetching)
    asking()
    mails = [b"Subject: %d\r\n\r\n" % n + b"\xff" * mail.MESSAGE_BYTES for n in range(16)]
    server.deliver(*mails)
    found = asking()
    assert (found["new"], found["more"]) == (15, 1)


def test_one_that_is_gone_is_passed_over(here: Asking, server: ImapServer) -> None:
    """It was removed between the list and its turn."""
    here()
    server.deliver(raw("a"), raw("b"), raw("c"))

    def remove(_: Conversation, command: str) -> bool:
        if command.startswith("UID FETCH 4"):
            server.mails.pop(4, None)
        return False

    server.before = remove
    assert here.subjects() == ["a", "c"]
    assert here.subjects() == []


def test_other_numbers_make_nothing_new(here: Asking, server: ImapServer) -> None:
    """UIDVALIDITY changed: what is known by its Message-ID is not given again, what came is."""
    here()
    server.deliver(raw("three"))
    assert here.subjects() == ["three"]
    server.validity = 8
    server.mails = {n + 100: data for n, data in server.mails.items()}
    server.deliver(raw("four"))
    assert here.subjects() == ["four"]
    assert here.subjects() == []
    server.validity, server.mails = 9, {n: raw(f"other {n}") for n in range(1, 80)}
    assert here()["note"] == mail.REPLACED
    server.deliver(raw("five"))
    assert here.subjects() == ["five"]


def test_the_first_time_is_over_at_once(
    here: Asking, server: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little of what is there could be looked at, none of it is new the next time."""
    server.deliver(*(raw(f"old {n}") for n in range(70)))
    monkeypatch.setattr(imap, "LEFT_S", 1_000.0)
    here()
    monkeypatch.undo()
    server.deliver(raw("new"))
    assert here.subjects() == ["new"]


def test_an_empty_folder(here: Asking, server: ImapServer) -> None:
    """The first mail of all is new."""
    server.mails.clear()
    here()
    server.deliver(raw("first"))
    assert here.subjects() == ["first"]


def test_a_name_and_a_password_may_be_anything(here: Asking, server: ImapServer) -> None:
    """What is no ASCII goes by another command."""
    here.url = f"imap://%C3%A4d%C3%A4@localhost:{server.port}"
    here.password = "pässword"
    assert here()["note"] == mail.FIRST
    assert any(command.startswith("AUTHENTICATE PLAIN") for command in server.told)


@needs_openssl
def test_by_tls(certificate: Path, trusted: Path, fetching: Fetching) -> None:
    """With a certificate that this machine trusts, for this very host."""
    server = ImapServer(certificate)
    server.deliver(raw("one"))
    try:
        asking = Asking(server, fetching)
        asking()
        server.deliver(raw("two"))
        assert asking.subjects() == ["two"]
    finally:
        server.close()


@needs_openssl
def test_a_certificate_of_nobody(certificate: Path) -> None:
    """The password is not sent to who cannot prove who it is."""
    server = ImapServer(certificate)
    try:
        assert "its certificate is not trusted" in Asking(server).error()
        assert server.told == []
    finally:
        server.close()


def test_only_a_listed_host_is_asked(here: Asking, server: ImapServer) -> None:
    """Its port, too: a host alone lists 993."""
    for listed in ("example.org", "localhost", f"localhost:{server.port + 1}"):
        here.net = listed
        with pytest.raises(PermissionRefused, match="may not be fetched"):
            here()
    assert server.told == []


def test_a_wrong_password_is_told_and_not_repeated(here: Asking, server: ImapServer) -> None:
    """A server that answers with what it was told tells nobody."""
    here.password = PASSWORD + "x"
    assert "localhost refuses ada@example.org or its password: " in here.error()

    def echo(conversation: Conversation, command: str) -> bool:
        if command.startswith("LOGIN"):
            conversation.say(f"{conversation.tag} NO {here.password} is wrong")
        return command.startswith("LOGIN")

    server.before = echo
    here.password = "hunter-two"
    told = here.error()
    assert "hunter-two" not in told and "[redacted]" in told


@pytest.mark.parametrize("form", ["{told}", "b{told!r}"])
def test_a_part_of_a_password_is_told_in_no_form(
    here: Asking, server: ImapServer, form: str
) -> None:
    """A server may answer with as much of a line as finds room: also of what is in base64."""
    here.password = "p\u00e4ssword-of-ada"
    parts = []

    def echo(conversation: Conversation, command: str) -> bool:
        if command.startswith("AUTHENTICATE"):
            conversation.say("+ ")
            parts.append(conversation.rfile.readline().decode().strip()[9:-9])
            conversation.say(f"{conversation.tag} NO {form.format(told=parts[0])}, it was")
        return command.startswith("AUTHENTICATE")

    server.before = echo
    told = here.error()
    assert told.count("[redacted]") == 1 and "it was" in told
    assert not any(parts[0][at : at + 8] in told for at in range(len(parts[0]) - 8))


@pytest.mark.parametrize("password", [PASSWORD, "p\u00e4ss'word", 'a\\"b'])
@pytest.mark.parametrize("form", ["{tag} NO what is {told}", "* BYE {told}", "{told}\x01"])
def test_a_password_is_told_in_no_form(
    here: Asking, server: ImapServer, password: str, form: str
) -> None:
    """Neither as it is, nor quoted as it was sent, nor as Python writes bytes."""

    def echo(conversation: Conversation, command: str) -> bool:
        if not command.startswith(("LOGIN", "AUTHENTICATE")):
            return False
        said = command
        if command.startswith("AUTHENTICATE"):  # what follows is that in base64
            conversation.say("+ ")
            said = conversation.rfile.readline().decode().strip()
        for told in (said, password, command):
            conversation.say(form.format(tag=conversation.tag, told=told))
        return True

    server.before = echo
    here.password, here.deadline_s = password, 1.0
    told = here.error()
    assert any(word in told for word in ("[redacted]", "EOF", "BYE", "took longer"))
    assert not any(part in told for part in ('"pass', "ss'w", '"b', "w6Rzcyd3"))


def test_a_folder_that_is_not_there(here: Asking, server: ImapServer) -> None:
    """It says what the server says; names are sent in modified UTF-7."""
    here.url = server.url.replace("INBOX", "Entw%C3%BCrfe")
    assert "no such folder" in here.error()
    assert 'EXAMINE "Entw&APw-rfe"' in server.told


def endless(conversation: Conversation, _: str) -> bool:
    for _number in range(300):
        conversation.say("* OK " + "x" * 60_000)
    return True


def huge(conversation: Conversation, _: str) -> bool:
    conversation.say("* 1 FETCH (UID 3 BODY[]<0> {99999999999}")
    return True


def nonsense(conversation: Conversation, _: str) -> bool:
    conversation.say(b"\xff\0{}()" * 100)
    conversation.say(f"{conversation.tag} what")
    return True


def no_list(conversation: Conversation, _: str) -> bool:
    conversation.say("* SEARCH 1 2 three " + "9" * 5_000)
    conversation.ok()
    return True


def goodbye(conversation: Conversation, _: str) -> bool:
    conversation.say("* BYE")
    conversation.request.close()
    return True


@pytest.mark.parametrize("command", ["CAPABILITY", "LOGIN", "EXAMINE", "UID SEARCH", "UID FETCH"])
@pytest.mark.parametrize("answer", [endless, huge, nonsense, no_list, goodbye])
def test_a_server_may_say_anything(
    here: Asking, server: ImapServer, answer: Any, command: str
) -> None:
    """It fails in a bounded way, remembers nothing wrong, and the next time all is well."""
    here()
    server.deliver(raw("three"))
    server.before = lambda conversation, told: (
        told.startswith(command) and bool(answer(conversation, told))
    )
    memory = here.memory
    try:
        given = here.subjects()
    except ToolError as error:
        assert len(error.what) < 500
        assert error.what.isprintable()
        assert here.memory == memory
        server.before = lambda _conversation, _told: False
        given = here.subjects()
    assert given in (["three"], [])  # where the server left it out, it was no mail


def test_a_silent_server_ends_at_the_deadline(here: Asking, server: ImapServer) -> None:
    """At each step; and a stop ends the wait at once."""
    server.before = lambda _conversation, command: command.startswith("EXAMINE")
    here.deadline_s = 0.3
    began = time.monotonic()
    assert "0.3 s" in here.error() or "timed out" in here.error()
    assert time.monotonic() - began < 10
    here.deadline_s = 60.0
    server.told.clear()
    tools = here.made()
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            tools.call("ReadMail", {"source": "ada"})
        except Stopped as error:
            ended.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: any("EXAMINE" in told for told in server.told))
    tools.close()
    thread.join(20)
    assert ended == [Stopped]


def test_a_slow_server_is_got_through(
    here: Asking, server: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the deadline what was fetched is given: the next time goes on from there."""
    here()
    server.deliver(raw("a"), raw("b"))
    monkeypatch.setattr(imap, "LEFT_S", 1_000.0)
    assert here()["more"] == 1
    assert here.subjects() == ["b"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("imaps://ada:secret@example.org", "a password stands in no URL"),
        ("imap://ada@example.org", "unencrypted"),
        ("imap://ada@127.0.0.1.example.org", "unencrypted"),
        ("https://ada@example.org", "is no address of a mailbox"),
        ("imaps://example.org", "is no address of a mailbox"),
        ("imaps://ada@", "is no address of a mailbox"),
        ("imaps://ada@example.org:99999/", "Port out of range"),
        ("imaps://ada@example.org/a%0d%0aDELETE", "holds what no mailbox has"),
        ("imaps://ada@example.org/?x", "holds what no mailbox has"),
    ],
)
def test_a_url_that_is_none(url: str, why: str) -> None:
    """The file is refused, with what to write."""
    with pytest.raises(ValueError, match=why):
        Account(url=url, password="secret:mail")


def test_a_password_is_a_secrets_name() -> None:
    """Never the password itself, and never in the error."""
    with pytest.raises(ValueError, match="does not stand in a file"):
        Account(url="imaps://ada@example.org", password="hunter2")
