"""Files that are there whole or not at all."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.whole import put_in_place, read_start, remove, write_whole


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the disk, in its order: "sync file", "sync folder", "rename"."""
    done: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            word = name
            if name == "sync":
                word += " folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else " file"
            done.append(word)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("agentd.whole.os.fsync", noting("sync", os.fsync))
    monkeypatch.setattr("agentd.whole.os.rename", noting("rename", os.rename))
    return done


def test_content_comes_to_the_disk_before_the_name(tmp_path: Path, calls: list[str]) -> None:
    """Else a power cut leaves the new name with nothing behind it."""
    write_whole(tmp_path / "a", "text")
    assert calls == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "a").read_text() == "text"


def test_a_folder_is_put_in_place_with_all_its_files(tmp_path: Path, calls: list[str]) -> None:
    """A model or a version whose files are empty would count as there."""
    (tmp_path / "half" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (tmp_path / "half" / name).write_text(name)
    put_in_place(tmp_path / "half", tmp_path / "whole")
    assert calls[-2:] == ["rename", "sync folder"]
    assert sorted(calls[:-2]) == ["sync file"] * 2 + ["sync folder"] * 2
    assert (tmp_path / "whole" / "deep" / "b").read_text() == "deep/b"


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_private_file_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """And a person's own file is as the umask says."""
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "private", b"x")
        write_whole(tmp_path / "own", b"x", mode=None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o666 & ~umask


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever may write a folder may put one there; only a file, also behind a link, is read."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert read_start(tmp_path / "file", 2) == b"te"
    assert read_start(tmp_path / "link", 9) == b"text"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to("pipe")
    (tmp_path / "to-device").symlink_to("/dev/zero")
    for name in ("pipe", "to-pipe", "to-device", ".", "nothing"):
        with pytest.raises(OSError):
            read_start(tmp_path / name, 9)


@pytest.mark.parametrize("broken", ["fsync", "rename"])
def test_a_failure_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Full disk, quota, a disk that fails: the caller is told."""
    path = tmp_path / "a"
    write_whole(path, "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"agentd.whole.os.{broken}", fail)
    with pytest.raises(OSError):
        write_whole(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also on a disk that has no hard links."""
    if not links:

        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("agentd.whole.os.link", no_links)
    write_whole(tmp_path / "a", "first", new=True)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", "second", new=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "first"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """What it points to is somebody else's."""
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "a").symlink_to("theirs")
    write_whole(tmp_path / "a", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "a").read_text() == "ours" and not (tmp_path / "a").is_symlink()


def test_a_disk_that_cannot_sync_a_folder_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network and FUSE disks: the file is there, and that is no error."""
    sync = os.fsync

    def no_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(fd)

    monkeypatch.setattr("agentd.whole.os.fsync", no_folders)
    write_whole(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_nobody_else_writes_then_renames() -> None:
    """One place knows how: a second way would forget a sync."""
    package = Path(__file__).parent.parent / "agentd"
    by_hand = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in ("os.rename(", "os.replace(", "os.fsync("))
    }
    assert by_hand == {"whole.py"}


def test_what_is_removed_may_be_nested_beyond_all_measure(tmp_path: Path) -> None:
    """Deeper than Python recurses and than a path is long; links in there are not followed.

    A program leaves such a tree in its scratch, and hands or daemon could not start any more.
    """
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    (tmp_path / "top").mkdir()
    here = os.open(tmp_path / "top", os.O_RDONLY)
    for number in range(3_000):
        os.close(os.open("file", os.O_CREAT, dir_fd=here))
        os.symlink(tmp_path / "kept", "link", dir_fd=here)
        os.mkdir("deeper", 0 if number == 2_999 else 0o700, dir_fd=here)
        if number < 2_999:
            deeper = os.open("deeper", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
    os.close(here)
    remove(tmp_path / "top")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "kept"
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "gone")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]
