"""ReadMail by the real supervisor, fetcher and hands: from a small server, and from dovecot."""

import json
import mailbox
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.sandbox.level import reached
from agentd.tools import mail
from tests import dovecot
from tests.dovecot import Dovecot
from tests.imap_server import PASSWORD, ImapServer
from tests.supervised import Daemon, daemon
from tests.test_mailboxes import a_mail
from tests.test_net import certificate, needs_openssl

__all__ = ["certificate"]
pytestmark = [
    pytest.mark.agentd_online,
    pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here"),
    needs_openssl,
]


class Small:
    """The small server, as a test uses both."""

    password = PASSWORD

    def __init__(self, certificate: Path) -> None:
        self.server = ImapServer(certificate)
        self.url, self.port, self.close = self.server.url, self.server.port, self.server.close

    def deliver(self, subject: str) -> None:
        self.server.deliver(bytes(a_mail(subject)))

    def marked(self) -> list[str]:
        return [told for told in self.server.told if "STORE" in told or "BODY[" in told]


class Real(Dovecot):
    """Dovecot, whose Maildir says in names what was marked: S is seen."""

    password = dovecot.PASSWORD

    def deliver(self, subject: str) -> None:
        new = self.folder / "mail/new" / mailbox.Maildir(self.folder / "mail").add(a_mail(subject))
        if os.geteuid() == 0:
            owner = new.parent.stat()
            os.chown(new, owner.st_uid, owner.st_gid)

    def marked(self) -> list[str]:
        names = [
            file.name for sub in ("cur", "new") for file in (self.folder / "mail" / sub).iterdir()
        ]
        assert len(names) == 3
        return [name for name in names if name.partition(":2,")[2]]


@pytest.fixture(params=[Small, Real])
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Small | Real]:
    if request.param is Real and dovecot.PROGRAM is None:
        pytest.skip("no dovecot here: apt-get install dovecot-imapd, or brew install dovecot")
    found = request.param(certificate)
    found.deliver("old")
    yield found
    found.close()


@pytest.fixture
def running(tmp_path: Path, server: Small | Real, certificate: Path) -> Iterator[Daemon]:
    """A daemon whose agent `reader` has the account, and nothing else."""
    with daemon(tmp_path, {"SSL_CERT_FILE": str(certificate)}) as one:
        one.paths.secrets.mkdir(parents=True, mode=0o700)
        secret = one.paths.secrets / "mail"
        secret.write_text(server.password)
        secret.chmod(0o600)
        account = f'[accounts.ada]\nurl = "{server.url}"\npassword = "secret:mail"\n'
        listed = f'[permissions]\nnet = ["localhost:{server.port}"]\n'
        one.drop("reader", "call", listed + account)
        one.start()
        one.wait_state("reader", "RUNNING")
        yield one


@pytest.fixture
def read(running: Daemon) -> Callable[[], dict[str, Any]]:
    """Call the tool as the worker does, and remember what it remembers."""
    memory: dict[str, Any] = {}

    def call() -> dict[str, Any]:
        told = running.called("reader", "ReadMail", source="ada", memory=memory)
        assert "raised" not in told, told
        memory.update(told.pop("remember", {}))
        return told

    return call


def test_new_mail_of_a_server(
    running: Daemon, server: Small | Real, read: Callable[[], dict[str, Any]]
) -> None:
    """By TLS, each process in its sandbox; nothing becomes seen, and no file has the password."""
    assert read()["note"] == mail.FIRST
    server.deliver("one")
    server.deliver("two")
    found = read()
    assert [message["subject"] for message in found["messages"]] == ["one", "two"]
    assert found["messages"][0]["text"] == "Hello.\n\nFrom here on."
    assert read()["messages"] == []
    assert server.marked() == []
    assert server.password not in json.dumps(found)
    for path in running.home.rglob("*"):
        if path.is_file() and path.parent != running.paths.secrets:
            assert server.password.encode() not in path.read_bytes(), path
