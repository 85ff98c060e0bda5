"""ReadMail on this machine: what is new in a Maildir and an mbox, and that nothing is touched."""

import mailbox
import os
import shutil
from base64 import b64encode
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.sandbox.level import reached
from agentd.tools import mail, mailboxes
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox
from tests.recorded import World, done, reader
from tests.test_hands import Hand, home, start

__all__ = ["home", "start"]
KINDS = ("maildir", "mbox")


class Reading:
    """An agent's ReadMail, session after session, each of which ends well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory: dict[str, Any] = {}
        self.tools = Toolbox(Permissions(read=(str(folder),)))

    def __call__(self, source: str, **more: Any) -> Mapping[str, Any]:
        self.tools.session = SessionView(memory=self.memory)
        result = self.tools.call("ReadMail", {"source": source, **more})
        assert not result.trusted and not result.publish
        self.memory = {**self.memory, **result.remember}
        return result.value

    def subjects(self, source: str, **more: Any) -> list[str]:
        return [message["subject"] for message in self(source, **more)["messages"]]


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading(tmp_path)


def made(kind: str, path: Path) -> "mailbox.Maildir | mailbox.mbox":
    return mailbox.Maildir(path) if kind == "maildir" else mailbox.mbox(path)


def a_mail(subject: str, text: str = "Hello.\n\nFrom here on.\n") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ada <ada@example.org>"
    message["Subject"] = subject
    message["Message-ID"] = f"<{subject}@example.org>"
    message.set_content(text)
    return message


def deliver(kind: str, path: Path, *subjects: str) -> None:
    box = made(kind, path)
    for subject in subjects:
        box.add(a_mail(subject))
    box.close()


def snapshot(path: Path) -> dict[str, tuple[int, int, int]]:
    """Every name below it, with what would tell a change."""
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    stats = {str(item): item.stat() for item in found}
    return {name: (s.st_ino, s.st_mtime_ns, s.st_size) for name, s in stats.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_new_the_first_time(reading: Reading, kind: str) -> None:
    """Then each is given once, the oldest first; a cut session sees it again."""
    path = reading.folder / "box"
    deliver(kind, path, "one", "two")
    first = reading(str(path))
    assert first == {"source": str(path), "new": 0, "more": 0, "note": mail.FIRST, "messages": []}
    assert reading(str(path)) == {"source": str(path), "new": 0, "more": 0, "messages": []}
    deliver(kind, path, "three", "four")
    before = reading.memory
    assert reading.subjects(str(path)) == ["three", "four"]
    assert reading.subjects(str(path)) == []
    reading.memory = before
    found = reading(str(path))
    assert [message["subject"] for message in found["messages"]] == ["three", "four"]
    assert found["messages"][0]["text"] == "Hello.\n\nFrom here on."
    assert "key" not in found["messages"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_touched(reading: Reading, kind: str) -> None:
    """No flag is set, nothing moves from new to cur, and no file is written."""
    path = reading.folder / "box"
    deliver(kind, path, "one")
    reading(str(path))
    deliver(kind, path, "two")
    before = snapshot(path)
    assert reading.subjects(str(path)) == ["two"]
    assert snapshot(path) == before


def test_a_mail_that_is_read_elsewhere_is_not_new(reading: Reading) -> None:
    """Another program moves it from new to cur and gives it flags, which are in its name."""
    path = reading.folder / "box"
    deliver("maildir", path, "one")
    reading(str(path))
    deliver("maildir", path, "two")
    reading(str(path))
    for file in (path / "new").iterdir():
        file.rename(path / "cur" / f"{file.name}:2,RS")
    assert reading.subjects(str(path)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_removed_makes_nothing_new(reading: Reading, kind: str) -> None:
    """An mbox is written anew then, and offsets in it are others."""
    path = reading.folder / "box"
    deliver(kind, path, *map(str, range(10)))
    reading(str(path))
    box = made(kind, path)
    for key in sorted(box.keys())[3:6]:
        box.remove(key)
    box.close()
    deliver(kind, path, "new")
    assert reading.subjects(str(path)) == ["new"]


@pytest.mark.parametrize("kind", KINDS)
def test_many_come_in_pieces(reading: Reading, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost and none comes twice, also where more came than is remembered."""
    for module in (mail, mailboxes):
        monkeypatch.setattr(module, "KNOWN", 6)
    path = reading.folder / "box"
    deliver(kind, path, *(f"old {n}" for n in range(15)))
    reading(str(path))
    names = [f"new {n}" for n in range(8)]
    deliver(kind, path, *names)
    found = reading(str(path), most=3)
    assert (found["new"], found["more"]) == (3, 5)
    given = [message["subject"] for message in found["messages"]]
    deliver(kind, path, "last")
    for _ in range(3):
        given += reading.subjects(str(path), most=3)
    assert given == [*names, "last"]
    assert len(reading.memory[f"mail:{path}"]["keys"]) <= 6


@pytest.mark.parametrize("kind", KINDS)
def test_an_emptied_mailbox_and_another_one(
    reading: Reading, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after all was taken out is new; a whole other mailbox in its place is not."""
    for module in (mail, mailboxes):
        monkeypatch.setattr(module, "KNOWN", 6)
    monkeypatch.setattr(mailboxes, "EMPTIED", 3)
    path = reading.folder / "box"
    deliver(kind, path, *(f"old {n}" for n in range(9)))
    reading(str(path))
    box = made(kind, path)
    box.clear()
    box.close()
    deliver(kind, path, "after")
    assert reading.subjects(str(path)) == ["after"]
    box = made(kind, path)
    box.clear()
    box.close()
    deliver(kind, path, *(f"other {n}" for n in range(9)))
    reading.memory[f"mail:{path}"]["whole"] = False
    assert reading(str(path))["note"] == mail.REPLACED
    assert reading.subjects(str(path)) == []


def test_a_copy_is_not_new(reading: Reading) -> None:
    """A mail that comes twice, or is moved away and back, has the Message-ID that it had."""
    path = reading.folder / "box"
    deliver("maildir", path)
    reading(str(path))
    deliver("maildir", path, "one", "one")
    assert reading.subjects(str(path)) == ["one"]
    deliver("maildir", path, "one", "two")
    assert reading.subjects(str(path)) == ["two"]


def test_an_mbox_is_split_where_mails_begin(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At `From ` behind an empty line, wherever the pieces that are read end."""
    path = reading.folder / "box"
    path.write_bytes(b"")
    reading(str(path))
    mails = b"".join(
        b"From a Sat Nov 28 09:00:00 2026\r\nSubject: %d\r\n\r\nx\r\nFrom me\r\n\r\n" % n
        for n in range(30)
    )
    path.write_bytes(mails.replace(b"\r\n", b"\n") + mails.replace(b"Subject: ", b"Subject: x"))
    wanted = [str(n) for n in range(30)] + [f"x{n}" for n in range(30)]
    for size in (*range(9, 40), 1_000):
        monkeypatch.setattr(mailboxes, "PIECE_BYTES", size)
        memory = dict(reading.memory)
        assert reading.subjects(str(path)) == [name for i, name in enumerate(wanted) if i < 50]
        reading.memory = memory


def test_only_a_listed_mailbox_is_read(reading: Reading, tmp_path: Path) -> None:
    """Not by a link, nor one that is none; each error says what is there."""
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    deliver("maildir", elsewhere, "secret")
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "file").write_text("no mail\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    deliver("maildir", tmp_path / "box", "one")
    odd = tmp_path / "box/new"
    (odd / "1.link").symlink_to(next((elsewhere / "new").iterdir()))
    errors = {
        str(elsewhere): "outside of what may be touched",
        "link": "outside of what may be touched",
        "file": "is no mailbox: an mbox begins",
        "folder": "is no mailbox: a Maildir has",
        "pipe": "is no regular file",
        "nothing": "No such file",
    }
    for source, why in errors.items():
        with pytest.raises(ToolError, match=why):
            reading(source)
    reading.memory["mail:box"] = {"keys": [], "whole": True}
    found = reading("box")["messages"]
    assert [message.get("problem", "") for message in found] == ["is no regular file", ""]
    assert "secret" not in str(found)


def test_without_a_mailbox_or_an_account(reading: Reading) -> None:
    """It says what the agent's file would have to list."""
    tools = Toolbox(Permissions(net=("example.org",)))
    with pytest.raises(PermissionRefused, match=r"none of \[accounts\] \(it has none\)"):
        tools.call("ReadMail", {"source": "ada"})


def test_one_odd_mail_holds_up_no_other(reading: Reading) -> None:
    """It is given, with what can be read of it, and the next ones, too."""
    path = reading.folder / "box"
    deliver("maildir", path)
    reading(str(path))
    odd = (b"From: " + b"(" * 9_000 + b"\n\nx", b"", b"\xff\0", b"\n\n")
    for number, data in enumerate(odd):
        (path / "new" / f"{number}.odd").write_bytes(data)
    deliver("maildir", path, "good")
    assert reading.subjects(str(path)) == ["", "", "", "", "good"]


def test_a_session_that_read_mail_is_replayed_without_it(tmp_path: Path) -> None:
    """By the recorded result; and what it remembers took effect with the session's end."""
    world = World(tmp_path)
    try:
        deliver("maildir", world.notes / "box", "old")
        asked: dict[str, Any] = {"tool": "read_mail", "source": "box", "most": None}
        answers, tools = [asked, done()], ["ReadMail", "WriteFile", "RunCommand"]
        reader(world, answers, tools=tools)
        deliver("maildir", world.notes / "box", "new")
        session = reader(world, answers, tools=tools)
        known = world.bus.facts.of("reader")["mail:box"]
        assert len(known["keys"]) == 2 and len(known["ids"]) == 1
        recording, _ = world.take(session)
        assert "'subject': 'new'" in str(recording.steps) and not recording.fixture.files
        shutil.rmtree(world.notes / "box")
        outcome = world.replay(recording)
        assert outcome.difference is None and outcome.given == 1
    finally:
        world.close()


@pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")
def test_by_hands_in_their_sandbox(start: Callable[..., Hand], home: Path) -> None:
    """Raw mails of a server, too; and nothing beyond what is listed."""
    deliver("maildir", home / "in/box", "one")
    deliver("mbox", home / "in/mbox", "two")
    deliver("maildir", home / "secret/box", "three")
    hand = start()
    for name, subject in (("box", "one"), ("mbox", "two")):
        found = hand.value("ReadMailbox", path=name, most=5, keys=[], whole=True)
        assert [message["subject"] for message in found["messages"]] == [subject]
    more = {"path": str(home / "secret/box"), "most": 5, "keys": [], "whole": True}
    assert hand.error("ReadMailbox", **more)[0] == "refused"
    raw = b64encode(bytes(a_mail("four"))).decode()
    (message,) = hand.value("ParseMail", messages=[raw])["messages"]
    assert message["subject"] == "four"
