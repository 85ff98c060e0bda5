"""ReadMail against a real IMAP server, by the real supervisor, fetcher and hands."""

import json
import mailbox
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.sandbox.level import reached
from agentd.tools import mail
from tests.dovecot import PASSWORD, PROGRAM, Dovecot
from tests.supervised import Daemon, daemon
from tests.test_mailboxes import a_mail
from tests.test_net import certificate

__all__ = ["certificate"]
pytestmark = [
    pytest.mark.agentd_online,
    pytest.mark.skipif(
        PROGRAM is None or shutil.which("openssl") is None,
        reason="dovecot is not installed (apt-get install dovecot-imapd, brew install dovecot)",
    ),
]


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[Dovecot]:
    found = Dovecot(certificate)
    deliver(found, "old")
    yield found
    found.close()


def deliver(server: Dovecot, *subjects: str) -> None:
    box = mailbox.Maildir(server.folder / "mail")
    for subject in subjects:
        name = box.add(a_mail(subject))
        if os.geteuid() == 0:
            owner = (server.folder / "mail").stat()
            os.chown(server.folder / "mail/new" / name, owner.st_uid, owner.st_gid)


def flags(server: Dovecot) -> list[str]:
    """What the server keeps of its mails in their names: S is seen."""
    names = [
        file.name for sub in ("cur", "new") for file in (server.folder / "mail" / sub).iterdir()
    ]
    return [name.partition(":2,")[2] for name in names]


@pytest.fixture
def running(tmp_path: Path, server: Dovecot, certificate: Path) -> Iterator[Daemon]:
    """A daemon whose agent `reader` has the account, and nothing else."""
    with daemon(tmp_path, {"SSL_CERT_FILE": str(certificate)}) as one:
        one.paths.secrets.mkdir(parents=True, mode=0o700)
        secret = one.paths.secrets / "mail"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        account = f'[accounts.ada]\nurl = "{server.url}"\npassword = "secret:mail"\n'
        listed = f'[permissions]\nnet = ["localhost:{server.port}"]\n'
        one.drop("reader", "call", listed + account)
        one.start()
        one.wait_state("reader", "RUNNING")
        yield one


def read(running: Daemon, memory: dict[str, Any]) -> dict[str, Any]:
    """Call the tool, as the worker does; remember what it remembers."""
    told = running.called("reader", "ReadMail", source="ada", memory=memory)
    assert "raised" not in told, told
    memory.update(told.pop("remember", {}))
    return told


@pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")
def test_new_mail_of_a_real_server(running: Daemon, server: Dovecot) -> None:
    """By TLS, each in its sandbox; nothing becomes seen, and the password is in no log."""
    memory: dict[str, Any] = {}
    assert read(running, memory)["note"] == mail.FIRST
    deliver(server, "one", "two")
    found = read(running, memory)
    assert [message["subject"] for message in found["messages"]] == ["one", "two"]
    assert found["messages"][0]["text"] == "Hello.\n\nFrom here on."
    assert read(running, memory)["messages"] == []
    assert flags(server) == ["", "", ""]
    for path in running.home.rglob("*"):
        if path.is_file() and path.parent != running.paths.secrets:
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in json.dumps(found)
