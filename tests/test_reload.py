"""Watching files: every save is noticed once, also where the watcher itself misses it."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn

import pytest
import watchfiles

from agentd.supervisor import file_changes
from agentd.supervisor.file_changes import changes, differences, stamps

DEADLINE_S = 10.0


async def watched(folders: list[Path], act: Callable[[], None]) -> frozenset[Path]:
    """Start watching, do something, and return what changed first."""
    stop = asyncio.Event()
    known = stamps(folders)
    async with aclosing(changes(folders, known, stop)) as stream:
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        act()
        found = await asyncio.wait_for(first, DEADLINE_S)
        stop.set()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.d").mkdir()
    return tmp_path


def test_a_new_file_is_noticed(folder: Path) -> None:
    """Created in place, the plainest way."""
    path = folder / "one.toml"
    assert asyncio.run(watched([folder], lambda: _write(path))) == {path}


def test_a_renamed_file_is_noticed(folder: Path) -> None:
    """Editors write beside and rename over."""
    path = folder / "one.toml"
    _write(path)
    beside = folder / "one.tmp"
    beside.write_text("y")
    assert asyncio.run(watched([folder], lambda: _rename(beside, path))) == {path}


def test_a_removed_file_is_noticed(folder: Path) -> None:
    """A removed file stops its agent."""
    path = folder / "one.toml"
    _write(path)
    assert asyncio.run(watched([folder], path.unlink)) == {path}


def test_many_saves_at_once_are_one_change(folder: Path) -> None:
    """A checkout of twenty files is checked once."""
    paths = [folder / f"a{number}.toml" for number in range(20)]

    def act() -> None:
        for path in paths:
            _write(path)

    assert asyncio.run(watched([folder], act)) == set(paths)


def test_a_change_before_the_watcher_stands_is_noticed(folder: Path) -> None:
    """Between the supervisor's first look and the watcher's start lies a gap."""
    path = folder / "one.toml"

    async def scene() -> frozenset[Path]:
        known = stamps([folder])
        _write(path)
        stop = asyncio.Event()
        async with aclosing(changes([folder], known, stop)) as stream:
            found = await asyncio.wait_for(anext(stream), DEADLINE_S)
            stop.set()
            return found

    assert asyncio.run(scene()) == {path}


def test_a_folder_that_comes_just_after_the_start_stops_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher that is given up for it sets its stop event: that is not the daemon's."""
    monkeypatch.setattr(file_changes, "STANDS_S", 0.05)
    late, awatch = folder / "late", watchfiles.awatch

    def started(*paths: Path, **options: Any) -> Any:
        if not late.exists():  # the first watcher is about to start without it
            late.mkdir()
            _write(late / "one.toml")
        return awatch(*paths, **options)

    monkeypatch.setattr(watchfiles, "awatch", started)

    async def run() -> None:
        stop = asyncio.Event()
        async with aclosing(changes([folder, late], {}, stop)) as stream:
            assert await anext(stream) == {late / "one.toml"}
            second = asyncio.ensure_future(anext(stream))
            await asyncio.wait({second}, timeout=0.5)
            assert not stop.is_set()
            _write(late / "two.toml")
            assert await asyncio.wait_for(second, DEADLINE_S) == {late / "two.toml"}
            stop.set()

    asyncio.run(run())


def test_a_missed_event_is_found_by_the_slow_look(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safety net: the target of a link lies outside of what is watched."""
    monkeypatch.setattr(file_changes, "LOOK_AGAIN_S", 0.1)
    (folder / "elsewhere").mkdir()
    target = folder / "elsewhere" / "real.toml"
    _write(target)
    link = folder / "agents.d" / "one.toml"
    link.symlink_to(target)
    changed = asyncio.run(watched([folder / "agents.d"], lambda: _write(target, "other")))
    assert changed == {link}


def test_a_folder_that_comes_later_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was deleted and made anew is another one to the kernel."""
    monkeypatch.setattr(file_changes, "LOOK_AGAIN_S", 0.1)
    path = tmp_path / "late" / "one.toml"

    def act() -> None:
        path.parent.mkdir()
        _write(path)

    assert asyncio.run(watched([path.parent], act)) == {path}


def test_a_link_to_a_folder_is_not_followed(folder: Path) -> None:
    """Two links to the folder itself are a tree of 2^40 folders; one to `/` is the whole disk."""
    for name in ("loop", "again"):
        (folder / name).symlink_to(folder)
    (folder / "disk").symlink_to("/")
    path = folder / "one.toml"
    assert asyncio.run(watched([folder], lambda: _write(path))) == {path}


def test_without_a_watcher_changes_are_still_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives a user 128 watchers; editors take them. That must not stop the daemon."""

    def none_left(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("Error creating recommended watcher: Too many open files")

    monkeypatch.setattr(watchfiles, "awatch", none_left)
    monkeypatch.setattr(file_changes, "UNWATCHED_S", 0.05)
    path = folder / "one.toml"
    assert asyncio.run(watched([folder], lambda: _write(path))) == {path}


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes only UTF-8")
def test_a_file_name_that_is_not_utf8_blinds_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher itself gives up on such a name; the files beside it are found all the same."""
    monkeypatch.setattr(file_changes, "UNWATCHED_S", 0.05)
    strange, path = folder / os.fsdecode(b"\xff.toml"), folder / "one.toml"

    async def scene() -> set[Path]:
        stop, found = asyncio.Event(), set[Path]()
        async with aclosing(changes([folder], stamps([folder]), stop)) as stream:
            for file in (strange, path):
                following = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                _write(file)
                found |= await asyncio.wait_for(following, DEADLINE_S)
            stop.set()
        return found

    assert asyncio.run(scene()) == {strange, path}


def test_only_our_kinds_of_files_count(folder: Path) -> None:
    """Caches, hidden files and editors' leftovers are nobody's."""
    for name in (".hidden.toml", "x.toml~", "x.txt", "__pycache__/x.py", ".git/x.py"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        _write(path)
    (folder / "dangling.toml").symlink_to(folder / "nowhere")
    assert stamps([folder]) == {}


def test_differences_are_new_gone_and_changed() -> None:
    """The three ways in which a file can differ."""
    old = {Path("same"): (1, 1, 1, 1), Path("gone"): (1, 1, 1, 1), Path("other"): (1, 1, 1, 1)}
    new = {Path("same"): (1, 1, 1, 1), Path("new"): (1, 1, 1, 1), Path("other"): (1, 2, 1, 1)}
    assert differences(old, new) == {Path("gone"), Path("new"), Path("other")}


def _write(path: Path, text: str = "x") -> None:
    path.write_text(text)


def _rename(source: Path, target: Path) -> None:
    source.replace(target)
