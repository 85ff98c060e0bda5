"""Watched folders: each new content once, whatever is killed, renamed or half written."""

import os
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus, Opening
from agentd.clock import iso
from agentd.config.agent import load_agent
from agentd.config.watched import Pattern
from agentd.events import FILE, Event
from agentd.logs.logger import get_logger
from agentd.macos import privacy
from agentd.paths import Paths, discover
from agentd.process.child import Child, python
from agentd.process.heart import Heart
from agentd.testing import wait_for
from agentd.watcher import contents, look
from agentd.watcher.contents import fingerprint
from agentd.watcher.look import File, FoundFiles
from agentd.watcher.watch_policy import NAME
from agentd.watcher.watcher import FileWatcher
from tests.supervised import remove_sockets

WAIT_S = 30.0


def nothing() -> None:
    """Stand for a beat."""


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a/*.pdf", "x.pdf", True),
        ("/a/*.pdf", "X.PDF", True),
        ("/a/*.pdf", ".x.pdf", False),
        ("/a/.*", ".x", True),
        ("/a/*.pdf", "b/x.pdf", False),
        ("/a/*/x", "b/x", True),
        ("/a/*/x", "b/c/x", False),
        ("/a/**/*.md", "x.md", True),
        ("/a/**/*.md", "b/c/x.md", True),
        ("/a/**/*.md", ".git/x.md", False),
        ("/a/**/d/*", "b/d/x", True),
        ("/a/**/d/*", "b/x", False),
        ("/a/x.md", "x.md", True),
        ("/a/[ab]?", "b1", True),
        ("/a/caf\u00e9*", "cafe\u0301.pdf", True),  # as macOS may spell it
    ],
)
def test_patterns_mean_what_people_expect(pattern: str, path: str, matches: bool) -> None:
    """Folders, capitals, hidden names."""
    parts = tuple(path.split("/"))
    assert Pattern.of(pattern).matches(parts) is matches
    if matches:
        assert all(Pattern.of(pattern).enters(parts[:n]) for n in range(1, len(parts)))


@pytest.mark.parametrize(
    "pattern",
    ["", "x/*.pdf", "/*.pdf", "/*/x", "/a/**", "/a/../*", "/a/b/", "/a/*/" * 5 + "*/*/*/*/*"],
)
def test_patterns_without_an_end_are_refused(pattern: str) -> None:
    """A pattern says where to look, and for what."""
    with pytest.raises(ValueError, match="'"):
        Pattern.of(pattern)


# --- looks


def found(*patterns: str) -> FoundFiles:
    return look.look([Pattern.of(pattern) for pattern in patterns], nothing)


def names(seen: FoundFiles) -> list[str]:
    return sorted(Path(path).name for path in seen.files)


def test_a_look_leaves_out_what_is_no_file(tmp_path: Path) -> None:
    """Links, pipes, folders, empty files, downloads and locks; and none of them makes it wait."""
    (tmp_path / "a.pdf").write_text("a")
    (tmp_path / "empty.pdf").touch()
    (tmp_path / "folder.pdf").mkdir()
    (tmp_path / "link.pdf").symlink_to(tmp_path / "a.pdf")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.pdf")
    for name in ("b.pdf.part", "c.crdownload", "d.tmp", "~$e.pdf", ".f.pdf"):
        (tmp_path / name).write_text("x")
    assert names(found(f"{tmp_path}/**/*")) == ["a.pdf"]


def test_a_download_under_way_beside_a_file_makes_it_partial(tmp_path: Path) -> None:
    """Firefox makes the file first. What was left there an hour ago is no download any more."""
    (tmp_path / "a.pdf").write_text("a")
    partial = tmp_path / "a.pdf.part"
    partial.write_text("a")
    (file,) = found(f"{tmp_path}/*").files.values()
    assert file.partial
    os.utime(partial, (0, 0))
    (file,) = found(f"{tmp_path}/*").files.values()
    assert not file.partial


def test_what_icloud_has_not_downloaded_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look into it would fetch it."""
    (tmp_path / "a.pdf").write_text("a")
    monkeypatch.setattr(privacy, "not_downloaded", lambda status: stat.S_ISREG(status.st_mode))
    assert names(found(f"{tmp_path}/*")) == []


def test_folders_that_cannot_be_watched_are_told(tmp_path: Path) -> None:
    """Not there, no folder, or closed: in words, and the others are looked at."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "a.md").write_text("x")
    seen = found(f"{tmp_path}/none/*", f"{tmp_path}/file/*", f"{tmp_path}/*.md")
    assert names(seen) == ["a.md"]
    assert seen.problems == [
        f"{tmp_path}/none is not there",
        f"{tmp_path}/file: Not a directory",
    ]


def test_macos_is_told_to_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that macOS keeps us out of names the consent that it wants."""

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "scandir", refuse)
    (problem,) = found(f"{Path.home()}/Downloads/*.pdf").problems
    assert "Full Disk Access: allow" in problem


def test_a_huge_folder_is_bounded_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look goes on for ever."""
    for number in range(30):
        (tmp_path / f"{number}.md").write_text("x")
    monkeypatch.setattr(look, "FILES_MAX", 20)
    seen = found(f"{tmp_path}/*.md")
    assert len(seen.files) <= 20
    assert "narrow the pattern" in seen.problems[0]
    monkeypatch.setattr(look, "ENTRIES_MAX", 10)
    assert len(found(f"{tmp_path}/*.md").files) <= 11


# --- contents


def the_file(path: Path) -> File:
    (file,) = found(str(path)).files.values()
    return file


def test_a_fingerprint_is_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the name; of a large file size, beginning and end count."""
    monkeypatch.setattr(contents, "WHOLE_BYTES", 30)
    monkeypatch.setattr(contents, "EDGE_BYTES", 10)
    texts = ("x" * 30, "x" * 30, "x" * 29 + "y", "a" * 15 + "b" + "c" * 15, "a" * 15 + "c" * 16)
    prints = []
    for number, text in enumerate(texts):
        (path := tmp_path / str(number)).write_text(text)
        prints.append(fingerprint(the_file(path), nothing))
    assert prints[0] == prints[1] != prints[2]
    assert prints[3] == prints[4]
    assert len(set(prints)) == 3


def test_no_fingerprint_of_what_is_written_or_changed(tmp_path: Path) -> None:
    """Half a file is no file."""
    path = tmp_path / "a"
    path.write_text("x")
    file = the_file(path)
    with path.open("a") as writer:
        if sys.platform == "linux":  # macOS does not tell
            assert fingerprint(file, nothing) is None
        writer.write("y")
    assert fingerprint(file, nothing) is None
    assert fingerprint(the_file(path), nothing)


# --- the process


class Home:
    """A home with an agent that watches a folder, and the watcher's process."""

    def __init__(self, folder: Path) -> None:
        self.paths: Paths = discover({"AGENTD_HOME": str(folder / "home")})
        self.paths.create()
        self.paths.create_private()
        self.drop = folder / "drop"
        self.drop.mkdir()
        self.bus = Bus(self.paths.database)
        self.since = iso(datetime.now(UTC))
        self.child: Child | None = None

    def accept(self, *patterns: str, more: str = "", start: Any = "now") -> None:
        """Accept an agent, as the supervisor does."""
        folder = self.paths.versions / "inbox" / "v1"
        folder.mkdir(parents=True, exist_ok=True)
        listed = ", ".join(f'"{self.drop}/{pattern}"' for pattern in patterns)
        text = f'agent = "task"\ndone = "It is done."\nwatch = [{listed}]\n{more}\n'
        (folder / "agent.toml").write_text(f'{text}[permissions]\nread = ["{self.drop}"]\n')
        config = load_agent(folder / "agent.toml")
        self.bus.accept("inbox", "v1", start=start, **config.triggers)

    def start(self) -> dict[str, Any]:
        """Start the watcher and wait for its first look."""
        self.paths.create_for(NAME)
        self.child = Child.spawn(
            NAME,
            python("agentd.watcher", "require", self.since, "inbox/v1"),
            self.paths.locks,
            env={**os.environ, "AGENTD_HOME": str(self.paths.user)},
        )
        beat: dict[str, Any] = wait_for(lambda: self.beat("idle"), seconds=WAIT_S)
        return beat

    def beat(self, state: str) -> dict[str, Any] | None:
        assert self.child is not None
        code = self.child.poll()
        assert code is None, (code, self.child.read(self.child.output_fd))
        beats = self.child.beats() or []
        return next((beat for beat in reversed(beats) if beat.get("state") == state), None)

    def kill(self) -> None:
        """Kill the watcher, and see it gone."""
        assert self.child is not None
        self.child.kill()
        wait_for(lambda: self.child is None or self.child.poll() is not None, seconds=WAIT_S)
        self.child.close()
        self.child = None

    def events(self) -> Sequence[Event]:
        return self.bus.events.list(event_type=FILE, limit=10_000)

    def told(self) -> list[str]:
        return [event.payload["name"] for event in self.events()]

    def has_told(self, number: int) -> bool:
        return len(self.told()) >= number

    def wait_told(self, *expected: str) -> None:
        """Wait until the agent was told of these files, in any order, and of no others."""
        wait_for(
            lambda: len(self.told()) >= len(expected), seconds=WAIT_S, what=f"told of {expected}"
        )
        assert sorted(self.told()) == sorted(expected)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    if home.child is not None:
        home.kill()
    home.bus.close()
    remove_sockets(home.paths)


def test_a_new_file_is_told_once(home: Home) -> None:
    """What lay there counts as seen; a new one comes; renamed, copied or touched it does not."""
    (home.drop / "old.pdf").write_text("old")
    home.accept("*.pdf")
    home.start()
    (home.drop / "other.txt").write_text("x")
    (home.drop / "new.pdf").write_text("new")
    home.wait_told("new.pdf")
    (event,) = home.events()
    content = fingerprint(the_file(home.drop / "new.pdf"), nothing)
    assert event.target == "inbox" and event.agent == "agentd"
    assert dict(event.payload) == {
        "path": str(home.drop / "new.pdf"),
        "name": "new.pdf",
        "size": 3,
        "fingerprint": content,
        "folder": str(home.drop),
    }
    (home.drop / "new.pdf").rename(home.drop / "renamed.pdf")
    (home.drop / "old.pdf").rename(home.drop / "old2.pdf")
    (home.drop / "copy.pdf").write_text("new")
    os.utime(home.drop / "renamed.pdf", (1, 1))
    (home.drop / "last.pdf").write_text("last")
    home.wait_told("new.pdf", "last.pdf")
    (home.drop / "old2.pdf").write_text("changed")
    home.wait_told("new.pdf", "last.pdf", "old2.pdf")


def test_files_of_results_are_no_news(home: Home) -> None:
    """Else an agent that watches their folder reads its own results, and has new ones of that."""
    real = home.drop.with_name("real")
    home.drop.rename(real)
    home.drop.symlink_to(real)
    home.paths.daemon_file.write_text(f"[deliver.file]\nfolder = '{real}'\n")
    home.accept("*.md", "deep/*.md", start="beginning")
    (home.drop / "deep").mkdir()
    for name in ("2026-11-29.md", "2026-11-29-2.md", "a.md", "deep/2026-11-30.md"):
        (home.drop / name).write_text(name)
    home.start()
    home.wait_told("a.md", "2026-11-30.md")


def test_beginning_means_all_of_it(home: Home) -> None:
    """An agent may be told of what lies there already; deep, and by names of any bytes."""
    deep = home.drop / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "x.md").write_text("x")
    odd = os.fsdecode(b"\xff.md")
    (home.drop / odd).write_text("y")
    home.accept("**/*.md", start="beginning")
    home.start()
    home.wait_told("x.md", "\\xff.md")


def test_a_restart_tells_nothing_twice_and_what_came_meanwhile(home: Home) -> None:
    """What was seen is in the database; a file that came without the watcher is found."""
    home.accept("*.pdf")
    home.start()
    (home.drop / "a.pdf").write_text("a")
    home.wait_told("a.pdf")
    home.kill()
    (home.drop / "a.pdf").rename(home.drop / "a2.pdf")
    (home.drop / "b.pdf").write_text("b")
    home.start()
    home.wait_told("a.pdf", "b.pdf")


@pytest.mark.parametrize(
    ("missed", "age", "before_the_daemon", "is_new"),
    [
        ("once", timedelta(days=9), True, True),
        ("once", timedelta(days=11), True, False),  # it lay there when the pattern was accepted
        ("skip", timedelta(hours=1), True, False),
        ("skip", timedelta(hours=1), False, True),  # only the watcher came late
        ("skip", timedelta(seconds=30), True, True),
        ("30m", timedelta(minutes=31), True, False),
        ("30m", timedelta(minutes=29), True, True),
    ],
)
def test_missed_decides_of_what_came_while_agentd_did_not_run(
    home: Home, missed: str, age: timedelta, before_the_daemon: bool, is_new: bool
) -> None:
    """What came without the daemon is late; what came without the watcher alone is not."""
    home.accept("*.pdf", more=f'missed = "{missed}"')
    now = datetime.now(UTC)
    home.bus.db.run("UPDATE schedules SET last_due = ?", (iso(now - timedelta(days=10)),))
    config = load_agent(home.paths.versions / "inbox" / "v1" / "agent.toml")
    started = now if before_the_daemon else now - timedelta(days=100)
    watcher = FileWatcher(
        {"inbox": config}, {}, home.paths, Opening(), started, Heart(None), get_logger()
    )
    pattern = Pattern.of(config.watch[0])
    file = File("/a.pdf", pattern, 1, "1 1 1", (now - age).timestamp(), partial=False)
    assert watcher._is_new(home.bus, "inbox", file) is is_new


def test_a_file_that_grows_is_told_when_it_is_whole(home: Home) -> None:
    """Half a download makes no event, and the whole one makes one."""
    home.accept("*.pdf")
    home.start()
    with (home.drop / "a.pdf").open("w") as file:
        for number in range(4):
            file.write(f"page {number}\n")
            file.flush()
            wait_for(lambda: home.beat("idle"), seconds=WAIT_S)
        assert home.told() == []
    home.wait_told("a.pdf")
    assert home.events()[0].payload["size"] == 28


def test_a_folder_that_comes_or_is_replaced_asks_for_a_new_start(home: Home) -> None:
    """A rule of the sandbox holds for the folder that it was made for."""
    home.accept("inner/*.pdf")
    beat = home.start()
    inner = home.drop / "inner"
    assert beat["problems"] == {"inbox": f"{inner} is not there"}
    inner.mkdir()
    home.kill()
    home.start()
    (inner / "a.pdf").write_text("a")
    home.wait_told("a.pdf")
    inner.rename(home.drop / "before")
    inner.mkdir()
    (home.drop / "before" / "b.pdf").write_text("b")  # of which it is told: it looks
    wait_for(
        lambda: (beat := home.beat("looks")) is not None and beat["stale"],
        seconds=60,
        what="it wants to be started again",
    )


def test_its_sandbox_holds(home: Home, tmp_path: Path) -> None:
    """It reads what is watched, not what lies beside: a link there leads nowhere."""
    secret = tmp_path / "secret.pdf"
    secret.write_text("secret")
    home.accept("*.pdf")
    home.start()
    (home.drop / "link.pdf").symlink_to(secret)
    os.link(secret, home.drop / "hard.pdf")
    home.wait_told("hard.pdf")  # a file in the folder, whatever else it is called


@pytest.mark.parametrize("kills", [4])
def test_kills_lose_nothing_and_tell_nothing_twice(home: Home, kills: int) -> None:
    """The watcher is killed again and again, at moments of its own work, while files come."""
    home.accept("**/*.pdf", start="beginning")
    expected = set()
    for number in range(kills):
        for inner in range(30):
            name = f"{number}-{inner}.pdf"
            path = home.drop / name
            path.write_text(name)
            os.utime(path, (1, 1))
            expected.add(name)
        before = len(home.told())
        home.paths.create_for(NAME)
        home.child = Child.spawn(
            NAME,
            python("agentd.watcher", "require", home.since, "inbox/v1"),
            home.paths.locks,
            env={**os.environ, "AGENTD_HOME": str(home.paths.user)},
        )
        wait_for(partial(home.has_told, before + 7 * (number + 1)), seconds=WAIT_S)
        os.kill(home.child.pid, signal.SIGKILL)
        home.kill()
    home.start()
    home.wait_told(*expected)
