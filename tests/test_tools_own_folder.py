"""AppendNote and MoveFile, and the folder that is an agent's own: what they do, and refuse."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agentd import whole
from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.tools import files, move, place
from agentd.tools.closed import Closed, KnownClosed
from agentd.tools.toolbox import Toolbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("inside", "inside/sub", "own", "closed"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "inside" / "a.txt").write_text("one")
    return tmp_path / "inside"


def toolbox(folder: Path, **more: Any) -> Toolbox:
    return Toolbox(Permissions(read=(str(folder),), write=(str(folder),)), **more)


# --- AppendNote


def test_a_line_is_added_to_the_end(folder: Path) -> None:
    """A file without an end of line gets one first; a new file is made, with its folders."""
    tools = toolbox(folder)
    assert tools.call("AppendNote", {"path": "a.txt", "text": "two\nthree\n"}).value["bytes"] == 14
    tools.call("AppendNote", {"path": "a.txt", "text": "four"})
    assert (folder / "a.txt").read_text() == "one\ntwo\nthree\nfour\n"
    tools.call("AppendNote", {"path": "new/b.md", "text": "- ä"})
    assert (folder / "new" / "b.md").read_text() == "- ä\n"
    assert sorted(p.name for p in folder.iterdir()) == ["a.txt", "new", "sub"]


def test_what_somebody_wrote_meanwhile_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's editor saves between the tool's reading and its writing."""
    read, saved = place.read_bytes, list[int]()

    def saving(*args: Any, **keys: Any) -> bytes:
        data = read(*args, **keys)
        if not saved:
            saved.append((folder / "a.txt").write_text("one, by a person"))
        return data

    monkeypatch.setattr(files, "read_bytes", saving)
    toolbox(folder).call("AppendNote", {"path": "a.txt", "text": "two"})
    assert (folder / "a.txt").read_text() == "one, by a person\ntwo\n"


def test_a_note_is_never_torn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle leaves the old file, and nothing beside it."""

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ToolError, match="No space left"):
        toolbox(folder).call("AppendNote", {"path": "a.txt", "text": "two"})
    assert (folder / "a.txt").read_text() == "one"
    assert sorted(p.name for p in folder.iterdir()) == ["a.txt", "sub"]


def test_what_holds_no_lines_is_refused(folder: Path) -> None:
    """Binaries, folders, pipes, giants, and what is no place to write."""
    (folder / "bin").write_bytes(b"a\0b")
    os.mkfifo(folder / "pipe")
    with (folder / "huge").open("wb") as file:
        file.truncate(files.READ_BYTES + 1)
    for path, why in (
        ("bin", "binary"),
        ("sub", "is a folder"),
        (".", "is a folder"),
        ("pipe", "no regular file"),
        ("huge", "too large"),
        ("../outside.txt", "outside"),
        (".zshrc", "programs obey it"),
        (".git/hooks/x", "git obeys"),
    ):
        with pytest.raises(ToolError, match=why):
            toolbox(folder).call("AppendNote", {"path": path, "text": "x"})
    assert (folder / "bin").read_bytes() == b"a\0b"


# --- MoveFile


def test_a_file_gets_another_name_or_folder(folder: Path) -> None:
    """With its mode, its time and its content, by one step on a disk."""
    os.utime(folder / "a.txt", (1, 1))
    tools = toolbox(folder)
    assert tools.call("MoveFile", {"path": "a.txt", "to": "sub"}).value["to"] == str(
        (folder / "sub" / "a.txt").resolve()
    )
    tools.call("MoveFile", {"path": "sub/a.txt", "to": "sub/b.txt"})
    assert (folder / "sub" / "b.txt").read_text() == "one"
    assert (folder / "sub" / "b.txt").stat().st_mtime == 1
    assert [p.name for p in folder.iterdir()] == ["sub"]


def test_a_file_goes_to_another_disk_by_a_copy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written whole there, with mode and time; only then removed here. One that changes stays."""

    def apart(*_args: Any, **_keys: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(move, "move", apart)
    (folder / "a.txt").chmod(0o600)
    os.utime(folder / "a.txt", (1, 1))
    tools = toolbox(folder)
    tools.call("MoveFile", {"path": "a.txt", "to": "sub"})
    status = (folder / "sub" / "a.txt").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o600, 1)
    assert not (folder / "a.txt").exists()
    (folder / "a.txt").write_text("another")
    with pytest.raises(ToolError, match="nothing is overwritten"):
        tools.call("MoveFile", {"path": "a.txt", "to": "sub"})
    assert (folder / "sub" / "a.txt").read_text() == "one"

    def grows(name: str, data: bytes, **keys: Any) -> None:
        whole.write_whole(name, data, **keys)
        (folder / "a.txt").write_text("another, longer")

    monkeypatch.setattr(move, "write_whole", grows)
    with pytest.raises(ToolError, match="changed meanwhile"):
        tools.call("MoveFile", {"path": "a.txt", "to": "sub/c.txt"})
    assert (folder / "a.txt").read_text() == "another, longer"
    assert [p.name for p in (folder / "sub").iterdir()] == ["a.txt"]


def test_nothing_is_overwritten_or_moved_out(folder: Path) -> None:
    """Neither a file nor a link; no folder is made, moved, or left; no link is followed."""
    (folder / "there").write_text("old")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "link").symlink_to("a.txt")
    (folder / "out").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe")
    for path, to, why in (
        ("a.txt", "there", "nothing is overwritten"),
        ("a.txt", "a.txt", "nothing is overwritten"),
        ("a.txt", "dangling", "is a link"),
        ("a.txt", "new/b.txt", "No such file"),
        ("a.txt", "../b.txt", "outside"),
        ("a.txt", "out/b.txt", "outside"),
        ("a.txt", ".git/b.txt", "git obeys"),
        ("a.txt", "sub/.zshrc", "programs obey it"),
        ("link", "b.txt", "is a link"),
        ("sub", "b", "is a folder"),
        (".", "b", "is a folder"),
        ("pipe", "b", "no regular file"),
        ("none", "b", "No such file"),
        ("../outside.txt", "b", "outside"),
    ):
        with pytest.raises(ToolError, match=why):
            toolbox(folder).call("MoveFile", {"path": path, "to": to})
    assert (folder / "there").read_text() == "old" and (folder / "a.txt").read_text() == "one"
    assert (folder.parent / "outside.txt").read_text() == "secret"


# --- an agent's own folder


def test_an_agent_has_a_folder_without_a_permission(folder: Path) -> None:
    """It reads and writes there, by short names where nothing else is listed, and nowhere else."""
    own = folder.parent / "own"
    tools = Toolbox(Permissions(), own=str(own))
    tools.call("WriteFile", {"path": "a.md", "text": "x"})
    tools.call("AppendNote", {"path": str(own / "a.md"), "text": "y"})
    tools.call("MoveFile", {"path": "a.md", "to": "b.md"})
    assert tools.call("ReadFile", {"path": "b.md"}).value["text"] == "x\ny"
    for path in (str(folder / "a.txt"), "../inside/a.txt", str(folder.parent / "own-2")):
        with pytest.raises(PermissionRefused):
            tools.call("WriteFile", {"path": path, "text": "x"})
        with pytest.raises(PermissionRefused):
            tools.call("ReadFile", {"path": path})
    with pytest.raises(PermissionRefused, match="run, which lists nothing"):
        tools.call("RunCommand", {"program": "true", "args": []})


def test_a_link_in_its_folder_leads_nowhere(folder: Path) -> None:
    """What is written there asks nobody: so also where the other place is listed to be written."""
    own = folder.parent / "own"
    (own / "out").symlink_to(folder)
    (own / "file").symlink_to(folder / "a.txt")
    tools = toolbox(folder, own=str(own))
    for path in (own / "out" / "a.txt", own / "file", own / "out" / "new.txt"):
        for tool in ("WriteFile", "AppendNote"):
            with pytest.raises(PermissionRefused, match="outside"):
                tools.call(tool, {"path": str(path), "text": "x"})
        with pytest.raises(ToolError):
            tools.call("MoveFile", {"path": str(folder / "a.txt"), "to": str(path)})
    assert (folder / "a.txt").read_text() == "one"


def test_hands_know_what_is_closed_to_who_only_has_a_folder(folder: Path) -> None:
    """Without a permission to write, the costly looks are left out, and not the checks by name."""
    own = folder.parent / "own"
    closed = KnownClosed(Closed(own=(folder.parent / "closed",)), writing=False)
    marks = closed.marks(writing=True)
    assert marks.reason(str(own / ".zshrc"), len(own.parts)) is not None
    assert marks.reason(str(folder.parent / "closed" / "x"), 0) is not None
    assert marks.reason(str(own / "a.md"), len(own.parts)) is None
