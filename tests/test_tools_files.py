"""The file tools: what they give, and what they refuse."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.testing import ManualClock
from agentd.tools import files
from agentd.tools import place as places
from agentd.tools.closed import Closed
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.toolbox import Toolbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (inside / "a.txt").write_text("one\ntwo\nthree\n")
    return inside


def toolbox(folder: Path, **more: Any) -> Toolbox:
    return Toolbox(Permissions(read=(str(folder),), write=(str(folder),)), **more)


def test_read_from_a_line_on(folder: Path) -> None:
    """Reading starts at the asked line, and says how many there are; content is not trusted."""
    result = toolbox(folder).call("ReadFile", {"path": "a.txt", "start": 2})
    path = str((folder / "a.txt").resolve())
    assert result.value == {"path": path, "start": 2, "lines": 3, "text": "two\nthree"}
    assert not result.trusted
    assert toolbox(folder).call("ReadFile", {"path": path}).value["text"] == "one\ntwo\nthree"


def test_a_long_file_is_cut_visibly_and_read_on(folder: Path) -> None:
    """Pages end with a marker that names the next line; together they give the whole file."""
    (folder / "long.txt").write_text("\n".join(f"{n} {'x' * 50}" for n in range(1, 1001)))
    tools, start, read = toolbox(folder), 1, []
    while True:
        text = tools.call("ReadFile", {"path": "long.txt", "start": start}).value["text"]
        body, marker, note = text.partition("\n...[cut: lines ")
        read += body.split("\n")
        if not marker:
            break
        start = int(note.split(" ")[0])
        assert f"read on with start={start}]" in note
    assert len(read) == 1000 and read[-1].startswith("1000 ")


def test_a_long_line_is_cut_visibly(folder: Path) -> None:
    """One endless line fills neither the result nor the context."""
    (folder / "line.txt").write_text("y" * 50_000)
    text = toolbox(folder).call("ReadFile", {"path": "line.txt"}).value["text"]
    assert text == "y" * 1000 + "...[cut 49000 characters]"


@pytest.mark.parametrize(
    "path",
    ["../outside.txt", "{top}/outside.txt", "link.txt", "linked/outside.txt", "/etc/passwd", ".."],
)
@pytest.mark.parametrize("tool", ["ReadFile", "ListFiles", "SearchText", "WriteFile"])
def test_nothing_outside_is_touched(folder: Path, tool: str, path: str) -> None:
    """`..`, absolute paths and links lead nowhere outside the permitted folders."""
    (folder / "link.txt").symlink_to(folder.parent / "outside.txt")
    (folder / "linked").symlink_to(folder.parent)
    args = {"path": path.format(top=folder.parent)}
    if tool in ("SearchText", "WriteFile"):
        args["text"] = "secret"
    with pytest.raises(PermissionRefused, match="outside"):
        toolbox(folder).call(tool, args)
    assert (folder.parent / "outside.txt").read_text() == "secret"


def test_a_prefix_of_the_name_is_not_the_folder(folder: Path) -> None:
    """/x/inside permits nothing in /x/inside-out."""
    other = folder.parent / "inside-out"
    other.mkdir()
    (other / "a.txt").write_text("")
    with pytest.raises(PermissionRefused):
        toolbox(folder).call("ReadFile", {"path": str(other / "a.txt")})


def test_a_link_put_there_after_the_check_is_not_followed(folder: Path) -> None:
    """A folder swapped for a link between resolving and opening opens nothing."""
    (folder / "sub").mkdir()
    (folder / "sub" / "f.txt").write_text("fine")
    place = places.locate("sub/f.txt", [str(folder)])
    (folder / "sub").rename(folder / "old")
    (folder / "sub").symlink_to(folder.parent)
    with pytest.raises(OSError), places.folder_of(place, place.parts[:-1]):
        pass
    (folder / "f.txt").symlink_to(folder.parent / "outside.txt")
    with (
        places.folder_of(place, ()) as opened,
        pytest.raises(ToolError, match="no regular file"),
    ):
        places.read_bytes("f.txt", opened, limit=100)


def test_links_inside_work(folder: Path) -> None:
    """A link that stays inside is followed."""
    (folder / "link.txt").symlink_to("a.txt")
    assert toolbox(folder).call("ReadFile", {"path": "link.txt"}).value["lines"] == 3


def test_special_files_are_refused_at_once(folder: Path) -> None:
    """A FIFO, a socket or a device neither blocks nor is opened."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))  # short: a socket's path has 104 bytes
        for name in ("fifo", "socket"):
            with pytest.raises(ToolError, match="no regular file"):
                toolbox(folder).call("ReadFile", {"path": name})
            with pytest.raises(ToolError, match="no regular file"):
                toolbox(folder).call("WriteFile", {"path": name, "text": "x"})
    with pytest.raises(ToolError, match="no regular file"):
        toolbox(Path("/dev")).call("ReadFile", {"path": "null"})


def test_folders_binaries_and_giants_are_refused(folder: Path) -> None:
    """Each refusal tells the model why."""
    (folder / "bin").write_bytes(b"a\0b")
    with (folder / "huge").open("wb") as file:
        file.truncate(files.READ_BYTES + 1)
    for path, why in (
        ("bin", "is a binary file"),
        ("huge", "too large"),
        (".", "is a folder"),
        ("none", "No such file"),
        ("a.txt/x", "Not a directory"),
        ("n\0ul", "NUL"),
    ):
        with pytest.raises(ToolError, match=why):
            toolbox(folder).call("ReadFile", {"path": path})
    beyond = toolbox(folder).call("ReadFile", {"path": "a.txt", "start": 4}).value
    assert beyond["start"] == 1, "a start past the end gives the last page, and says so"
    assert "no line 4" in beyond["text"]


def test_home_is_written_the_same_in_paths_and_permissions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file below ~ that an event names is found, and nothing outside the root is."""
    monkeypatch.setenv("HOME", str(folder.parent))
    tools = Toolbox(Permissions(read=(f"~/{folder.name}",)))
    assert "one" in tools.call("ReadFile", {"path": f"~/{folder.name}/a.txt"}).value["text"]
    with pytest.raises(PermissionRefused):
        tools.call("ReadFile", {"path": "~/elsewhere.txt"})


def test_the_bus_is_never_opened(folder: Path) -> None:
    """Our own database is refused, by path or by hard link: closing it would drop our locks."""
    database = folder / "agentd.db"
    database.write_text("x")
    (folder / "hard").hardlink_to(database)
    tools = toolbox(folder, closed=Closed(own=(database,)))
    for name in ("agentd.db", "hard"):
        for tool in ("ReadFile", "WriteFile"):
            with pytest.raises(PermissionRefused):
                tools.call(tool, {"path": name, **({"text": ""} if tool == "WriteFile" else {})})
    assert tools.call("SearchText", {"path": ".", "text": "x"}).value["found"] == []


def test_a_search_stays_out_of_what_is_forbidden(folder: Path) -> None:
    """The model server's token is not found by searching the folder around it."""
    run = folder / "agentd" / "run"
    run.mkdir(parents=True)
    (run / "model.token").write_text("secret")
    value = (
        toolbox(folder, closed=Closed(own=(run,)))
        .call("SearchText", {"path": "", "text": "e"})
        .value
    )
    assert [found.partition(":")[0] for found in value["found"]] == ["a.txt", "a.txt"]


@pytest.fixture
def caseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be found as on a Mac, whose file system takes `Run` for `run`."""
    listdir, really_open = os.listdir, os.open

    def names_in(folder: int) -> list[str]:
        opened = really_open(".", os.O_RDONLY, dir_fd=folder)  # it may be opened for its path alone
        try:
            return listdir(opened)
        finally:
            os.close(opened)

    def found(path: Any, folder: int | None) -> Any:
        if not isinstance(path, str | os.PathLike):
            return path  # a descriptor
        at, parts = ("", [os.fspath(path)]) if folder is not None else ("/", Path(path).parts[1:])
        for part in parts:
            try:
                names = names_in(folder) if folder is not None else listdir(at or "/")
            except OSError:
                names = []
            same = (name for name in names if name.lower() == str(part).lower())
            at = os.path.join(at, next(same, str(part)))  # noqa: PTH118
        return at

    def caselessly(function: Any) -> Any:
        def call(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> Any:
            return function(found(path, dir_fd), *args, dir_fd=dir_fd, **more)

        return call

    for name in ("open", "stat", "lstat"):
        monkeypatch.setattr(os, name, caselessly(getattr(os, name)))


@pytest.mark.usefixtures("caseless")
def test_another_spelling_opens_no_forbidden_door(folder: Path) -> None:
    """Where `RUN` is `run`, neither the token is read by that name nor an agent's file written."""
    for name in ("run", "config"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("secret")
    tools = toolbox(folder, closed=Closed((folder / "run",), (folder / "config",)))
    assert tools.call("ReadFile", {"path": "CONFIG/file"}).value["text"] == "secret"
    for tool, path in (
        ("ReadFile", "RUN/file"),
        ("ListFiles", "Run"),
        ("SearchText", "Run"),
        ("WriteFile", "RUN/new"),
        ("WriteFile", "CONFIG/file"),
        ("WriteFile", "Config/new"),
    ):
        more = {"WriteFile": {"text": "mine"}, "SearchText": {"text": "e"}}.get(tool, {})
        with pytest.raises(PermissionRefused):
            tools.call(tool, {"path": path, **more})


def test_list(folder: Path) -> None:
    """Folders end with a slash, names and sizes are apart, names that are not UTF-8 can be read."""
    (folder / "sub").mkdir()
    (folder / "link").symlink_to("a.txt")
    try:
        (folder / os.fsdecode(b"caf\xe9")).write_text("bytes")
    except OSError:  # macOS has UTF-8 names only
        (folder / "caf\\xe9").write_text("bytes")
    entries = toolbox(folder).call("ListFiles", {"path": "."}).value["entries"]
    assert entries == [
        {"name": "a.txt", "bytes": 14},
        {"name": "caf\\xe9", "bytes": 5},
        {"name": "link", "kind": "link"},
        {"name": "sub/"},
    ]
    assert toolbox(folder).call("ReadFile", {"path": "caf\\xe9"}).value["text"] == "bytes"


def test_a_long_list_says_how_many_more(folder: Path) -> None:
    """A folder of many files is cut, visibly."""
    for number in range(files.ENTRIES + 5):
        (folder / f"f{number}").touch()
    value = toolbox(folder).call("ListFiles", {"path": ""}).value
    assert len(value["entries"]) == files.ENTRIES and value["more"] == 6


def test_search(folder: Path) -> None:
    """Matches come as path:line: text; .git, binaries and links are left out."""
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("two")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text("\n  two twos\n")
    (folder / "bin").write_bytes(b"two\0")
    (folder / "link").symlink_to(folder.parent / "outside.txt")
    value = toolbox(folder).call("SearchText", {"path": ".", "text": "two"}).value
    assert value["found"] == ["a.txt:2: two", "sub/b.txt:2: two twos"]
    assert (value["files"], value["skipped"]) == (2, 2)
    one = toolbox(folder).call("SearchText", {"path": "sub/b.txt", "text": "two"})
    assert one.value["found"] == ["b.txt:2: two twos"]


def test_a_search_with_many_matches_stops_and_says_so(folder: Path) -> None:
    """The result is bounded, and says that it is not all."""
    (folder / "many.txt").write_text("hit\n" * 500)
    value = toolbox(folder).call("SearchText", {"path": ".", "text": "hit"}).value
    assert len(value["found"]) == files.MATCHES and "stopped" in value["more"]


def test_write_is_atomic_and_stays_inside(folder: Path) -> None:
    """New folders are made, modes are kept, a reader of the old file keeps the old text."""
    tools = toolbox(folder)
    assert tools.call("WriteFile", {"path": "new/b.txt", "text": "ä"}).value["bytes"] == 2
    assert (folder / "new" / "b.txt").read_text() == "ä"
    (folder / "a.txt").chmod(0o600)
    with (folder / "a.txt").open() as old:
        tools.call("WriteFile", {"path": "a.txt", "text": "now"})
        assert old.read() == "one\ntwo\nthree\n"
    assert (folder / "a.txt").read_text() == "now"
    assert (folder / "a.txt").stat().st_mode & 0o777 == 0o600
    assert {p.name for p in folder.iterdir()} == {"a.txt", "new"}  # no temporary file is left


def test_a_single_file_can_be_permitted(folder: Path) -> None:
    """A permission may name one file, even one that is still to be written, and nothing beside."""
    one = Toolbox(Permissions(write=(str(folder / "out.txt"),)))
    one.call("WriteFile", {"path": str(folder / "out.txt"), "text": "x"})
    one.call("WriteFile", {"path": str(folder / "out.txt"), "text": "y"})
    assert (folder / "out.txt").read_text() == "y"
    for other in (folder / "a.txt", folder):
        with pytest.raises(PermissionRefused):
            one.call("WriteFile", {"path": str(other), "text": "x"})


def test_nothing_is_allowed_unless_listed(folder: Path) -> None:
    """Without a permission each tool refuses, and names the permission it needs."""
    none = Toolbox(Permissions())
    args: dict[str, dict[str, Any]] = {
        "ListFiles": {"path": "/"},
        "ReadFile": {"path": "/etc/passwd"},
        "SearchText": {"path": "/", "text": "x"},
        "WriteFile": {"path": str(folder / "a.txt"), "text": "x"},
        "AppendNote": {"path": str(folder / "a.txt"), "text": "x"},
        "MoveFile": {"path": str(folder / "a.txt"), "to": "b.txt"},
        "Query": {"path": "a.db", "sql": "SELECT 1"},
        "HttpGet": {"url": "http://127.0.0.1/"},
        "ReadPage": {"url": "http://127.0.0.1/"},
        "ReadFeed": {"url": "http://127.0.0.1/"},
        "ReadCalendar": {"source": "a.ics"},
        "ReadPdf": {"path": "a.pdf"},
        "ReadMail": {"source": "ada"},
        "ReadLog": {"path": "/etc/a.log"},
        "ReadTasks": {"path": "/"},
        "FindNotes": {"path": "/", "words": "rent"},
        "RunCommand": {"program": "true", "args": []},
        "RunShortcut": {"name": "a"},
        "AddReminder": {"title": "a"},
        "AddNote": {"title": "a", "text": ""},
    }
    assert args.keys() == {name for name, tool in REGISTRY.items() if tool.needs}
    for name, given in args.items():
        kinds = " or ".join(REGISTRY[name].needs)
        with pytest.raises(PermissionRefused, match=f"{kinds}, which lists"):
            none.call(name, given)
    with pytest.raises(PermissionRefused):  # a relative root would depend on where we stand
        Toolbox(Permissions(read=(".",))).call("ListFiles", {"path": "."})


def test_wrong_arguments_are_told(folder: Path) -> None:
    """An unknown tool, a missing, unknown or oversized argument is a ToolError that names it."""
    tools = toolbox(folder)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("Nothing", {}, "no tool Nothing"),
        ("ReadFile", {}, "path: Field required"),
        ("ReadFile", {"path": "a", "start": 0}, "start: .*greater than or equal to 1"),
        ("ReadFile", {"path": "a", "more": 1}, "more: Extra"),
        ("ReadFile", {"path": "a" * 201}, "path: .*at most 200"),
        ("SearchText", {"path": "a", "text": ""}, "text: .*at least 1"),
    ]
    for name, args, why in wrong:
        with pytest.raises(ToolError, match=why):
            tools.call(name, args)


def test_asking_a_person_parks() -> None:
    """The question is what the session parks with."""
    result = Toolbox(Permissions()).call("AskPerson", {"question": "Delete it?"})
    assert result.ask == "Delete it?"


def test_deadline_and_stop(folder: Path) -> None:
    """No time left is a ToolError; after `close` every call raises Stopped."""
    late = toolbox(folder, deadline_s=0.0, clock=ManualClock())
    with pytest.raises(ToolError, match="longer than"):
        late.call("ReadFile", {"path": "a.txt"})
    tools = toolbox(folder)
    tools.close()
    with pytest.raises(Stopped):
        tools.call("ReadFile", {"path": "a.txt"})


def test_no_agent_writes_what_agents_are_made_of(folder: Path) -> None:
    """A wide `write` must not let an agent give itself a permission; reading it does no harm."""
    own = folder / "config" / "agents.d"
    own.mkdir(parents=True)
    (own / "x.toml").write_text("agent = 'x'")
    (folder / "link").symlink_to(own)
    tools = toolbox(folder, closed=Closed(protected=(folder / "config",)))
    for path in ("config/agents.d/x.toml", "config/agents.d/new.toml", "link/x.toml"):
        with pytest.raises(PermissionRefused):
            tools.call("WriteFile", {"path": path, "text": "run = ['sh']"})
    assert tools.call("ReadFile", {"path": "config/agents.d/x.toml"}).value["lines"] == 1
    tools.call("WriteFile", {"path": "b.txt", "text": "fine"})
