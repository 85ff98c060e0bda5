"""The places that no permission opens: agentd's own, and what others would run or obey."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import agentd
from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.paths import Paths, discover
from agentd.tools import files
from agentd.tools import place as places
from agentd.tools.base import Grants, ToolCall
from agentd.tools.closed import Closed
from agentd.tools.toolbox import Toolbox


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a project, a bare repository and an environment in it."""
    home = tmp_path / "home"
    for top in (home / "proj" / ".git", home / "bare.git"):
        for inner in ("objects", "refs"):
            (top / inner).mkdir(parents=True)
        (top / "HEAD").write_text("ref: refs/heads/main\n")
    (home / "venv" / "bin").mkdir(parents=True)
    (home / "venv" / "pyvenv.cfg").touch()
    monkeypatch.setenv("HOME", str(home))
    return home


def write(path: str, *roots: Path, **more: Any) -> None:
    tools = Toolbox(Permissions(write=tuple(map(str, roots))), **more)
    tools.call("WriteFile", {"path": path, "text": "touch /tmp/owned"})


@pytest.mark.parametrize(
    "path",
    [
        *("proj/.git/config", "proj/.git/hooks/pre-commit", "proj/.GIT/config", "proj/.git"),
        *("proj/.g\u200cit/config", "proj/deeper/.git", "proj/.gitmodules", ".gitconfig"),
        *("bare.git/config", "bare.git/hooks/post-update", "bare.git/objects/info/alternates"),
        *(".zshrc", ".ZshRC", ".bashrc", ".profile", "backup/.bash_profile", ".vimrc", ".unheard"),
        *(".ssh/authorized_keys", ".\u017fsh/config", ".gnupg/gpg.conf", ".unheard/of/it"),
        *(".config/autostart/x.desktop", ".config/systemd/user/x.service", ".config/new"),
        *(".local/bin/ls", ".local/share/applications/x.desktop", ".config/fish/config.fish"),
        *("Library/LaunchAgents/x.plist", "library/launchagents/x.plist", "Library/x/y"),
        *("venv/bin/activate", "venv/lib/python3/site-packages/x.pth", "venv/pyvenv.cfg"),
        *("x/dist-packages/y.py", "sitecustomize.py"),
    ],
)
def test_what_programs_obey_is_not_written(home: Path, path: str) -> None:
    """A home may be written and yet nothing in it that git, a shell or a login runs."""
    before = sorted(home.rglob("*"))
    for root in (home, home.parent):
        with pytest.raises(PermissionRefused, match="written by no tool"):
            write(str(home / path), root)
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    "path",
    [
        *("notes.txt", "Documents/draft", "proj/src/a.py", "proj/.gitignore", "proj/HEAD"),
        *("proj/.github/CONTRIBUTING.md", "proj/objects/x", "legit/config", "zshrc"),
        *("proj/gitdir", "proj/deep/.editorconfig", "proj/.dockerignore", "proj/docs/.nojekyll"),
        *("proj/.github/ISSUE_TEMPLATE/bug.md", "proj/.env.example", "Library.txt", "proj/a.b"),
    ],
)
def test_the_rest_of_a_home_is_as_open_as_before(home: Path, path: str) -> None:
    """What is nobody's program is written where the permission says so."""
    write(path, home)
    assert (home / path).read_text()


def test_a_hidden_folder_is_open_where_the_permission_names_it(home: Path) -> None:
    """`~/.notes` may be listed; a folder of others' folders and what a shell runs may not."""
    for root, path in (
        *((".notes", "x"), (".notes/deep", "x"), (".config/mine", "x"), (".one.txt", "")),
        *((".local/share/mine", "x"), ("Library/Mobile Documents", "x")),
    ):
        if path:
            (home / root).mkdir(parents=True, exist_ok=True)
        write(str(home / root / path), home / root)
    for root, path in (
        *((".config", "mine/y"), (".local/share", "y"), (".local", "share/y"), ("Library", "y/z")),
        *((".zshrc", ""), (".ssh", "config"), (".config/systemd", "user/x"), ("proj/.git", "x")),
        *(("bare.git/hooks", "x"), ("venv/bin", "x")),
    ):
        with pytest.raises(PermissionRefused, match="written by no tool"):
            write(str(home / root / path), home / root)


def test_a_link_opens_none_of_them(home: Path) -> None:
    """By a link, by the file that a start-up file's name leads to, or from within."""
    (home / "notes").symlink_to(home / "proj" / ".git")
    (home / "dotfiles").mkdir()
    (home / "dotfiles" / "zsh").write_text("")
    (home / ".zshrc").symlink_to(home / "dotfiles" / "zsh")
    for path in ("notes/config", "dotfiles/zsh"):
        with pytest.raises(PermissionRefused):
            write(path, home)
    write("dotfiles/other", home)


@pytest.mark.parametrize(
    "names",
    [("HEAD", "refs/heads/x", "objects/x"), ("objects/x", "head", "Refs"), ("commondir", "HEAD")],
)
def test_no_repository_comes_into_being(home: Path, names: tuple[str, ...]) -> None:
    """The last file that would make a folder one that git obeys is refused, in any order."""
    (home / "new").mkdir()
    *first, last = names
    for name in first:
        if name == "head":  # on a Mac it is HEAD
            (home / "new" / "HEAD").touch()
        else:
            write(f"new/{name}", home)
    with pytest.raises(PermissionRefused, match="repository"):
        write(f"new/{last}", home)


def test_a_folder_exchanged_after_the_look_is_seen(home: Path) -> None:
    """A repository or a closed folder that is moved into the path meanwhile is not written."""
    (home / "plain").mkdir()
    (home / "mine").mkdir()
    marks = Closed(own=(home / "mine",)).marks(writing=True)
    for moved in ("bare.git", "mine"):
        place = places.locate("plain/config", [str(home)], marks)
        (home / "plain").rename(home / "away")
        (home / moved).rename(home / "plain")
        with (
            pytest.raises(PermissionRefused, match="meanwhile"),
            places.folder_of(place, place.parts[:-1], marks),
        ):
            pass
        (home / "plain").rename(home / moved)
        (home / "away").rename(home / "plain")


def test_machine_and_interpreter_are_not_written() -> None:
    """With `write = ["/"]` none of the system's, Python's or agentd's own files can be replaced."""
    marks = Closed().marks(writing=True)
    package = Path(agentd.__file__).parent
    for path in (
        *(os.__file__, sys.executable, pytest.__file__, "/etc/cron.d/x", "/usr/bin/git"),
        *(package / "cli.py", package.parent / "agents" / "x.py", "/proc/self/mem", "/dev/sda"),
        *(package.parent / "config" / "agents.d" / "x.toml", "/root/.bashrc", "/home/x/.x/y"),
    ):
        with pytest.raises(PermissionRefused):
            places.locate(str(path), ["/"], marks)
    places.locate("/srv/notes/x", ["/"], marks)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_process_is_not_read() -> None:
    """/proc of a process holds its memory and environment; what everybody may know is read."""
    tools = Toolbox(Permissions(read=("/",)))
    for path in ("self/environ", f"{os.getppid()}/environ", "thread-self/mem", "self/task", "self"):
        with pytest.raises(PermissionRefused):
            tools.call("ReadFile", {"path": f"/proc/{path}"})
    for path in ("mounts", "self/status", "uptime"):
        assert tools.call("ReadFile", {"path": f"/proc/{path}"}).value["text"]


def test_a_search_passes_over_what_is_closed_deep_below(paths: Paths, tmp_path: Path) -> None:
    """From the top of the disk on, as from a home."""
    marks = Closed.of(paths, "one", None).marks(writing=False)
    (tmp_path / "x").write_text("secret")
    call = ToolCall(Grants(read=(str(tmp_path),)), Closed.of(paths, "one", None))
    value = files.search_text(call, path="", text="secret").value
    assert value["found"] == ["x:1: secret"]
    assert marks.reason(f"/proc/{os.getpid()}", 0) and not marks.reason("/proc", 0)


def test_what_is_replaced_keeps_no_dangerous_mode(home: Path) -> None:
    """Neither set-uid, set-gid, sticky nor executable: what a model wrote is not run by name."""
    for mode, kept in ((0o755, 0o644), (0o6755, 0o644), (0o1777, 0o666), (0o600, 0o600)):
        (home / "tool").touch()
        (home / "tool").chmod(mode)
        write("tool", home)
        assert (home / "tool").stat().st_mode & 0o7777 == kept


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path / "agentd")})
    paths.create()
    for path in own_files(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    return paths


def own_files(paths: Paths) -> list[Path]:
    database = paths.database
    return [
        *(database, *(database.with_name(f"{database.name}-{end}") for end in ("wal", "shm"))),
        *(paths.accepted_daemon_file, paths.logs / "one.jsonl", paths.backups / "b.db"),
        *(
            paths.prompt_caches,
            paths.scratch / "other" / "x",
            paths.versions / "one" / "h" / "a.py",
        ),
        *(paths.token, paths.models / "m" / "config.json", paths.data / "coming"),
    ]


def test_agentds_own_is_neither_read_nor_written(paths: Paths, tmp_path: Path) -> None:
    """The whole data folder, however wide the permission is, and however it is spelled."""
    wide = (str(tmp_path), str(paths.data), *map(str, own_files(paths)))
    closed = Closed.of(paths, "one", None)
    tools = Toolbox(Permissions(read=wide, write=wide), closed=closed)
    for path in (*own_files(paths), paths.data / "new", paths.run / "locks" / "new"):
        with pytest.raises(PermissionRefused):
            tools.call("WriteFile", {"path": str(path), "text": ""})
        with pytest.raises(PermissionRefused):
            tools.call("ReadFile", {"path": str(path)})
        for tool, more in (("ListFiles", {}), ("SearchText", {"text": "e"})):
            with pytest.raises(PermissionRefused):
                tools.call(tool, {"path": str(path.parent), **more})
    assert tools.call("SearchText", {"path": str(tmp_path), "text": "secret"}).value["found"] == []
    assert all(path.read_text() == "secret" for path in own_files(paths))


def test_a_hard_link_opens_none_of_it(paths: Paths, tmp_path: Path) -> None:
    """A second name of the token, a log or a backup is the same file; other links are read."""
    (tmp_path / "linked").mkdir()
    for number, path in enumerate(own_files(paths)):
        (tmp_path / "linked" / str(number)).hardlink_to(path)
    (tmp_path / "linked" / "mine").write_text("secret")
    (tmp_path / "linked" / "again").hardlink_to(tmp_path / "linked" / "mine")
    tools = Toolbox(
        Permissions(read=(str(tmp_path),), write=(str(tmp_path),)),
        closed=Closed.of(paths, "one", None),
    )
    for number in range(len(own_files(paths))):
        for tool, more in (("ReadFile", {}), ("WriteFile", {"text": "x"})):
            with pytest.raises(PermissionRefused, match="belongs to agentd"):
                tools.call(tool, {"path": f"linked/{number}", **more})
    value = tools.call("SearchText", {"path": "", "text": "secret"}).value
    assert [line.partition(":")[0] for line in value["found"]] == ["linked/again", "linked/mine"]


def test_its_own_scratch_and_a_persons_folders_stay_open(paths: Paths) -> None:
    """An agent's scratch is its own; what a person wrote is read, where the permission says so."""
    (paths.agents_d / "x.toml").write_text("agent = 'x'")
    wide = (str(paths.data),)
    closed = Closed.of(paths, "one", None)
    (paths.scratch / "one").mkdir(exist_ok=True)
    tools = Toolbox(Permissions(read=wide, write=wide), closed=closed)
    tools.call("WriteFile", {"path": str(paths.scratch / "one" / "a" / "b"), "text": "x"})
    assert tools.call("ReadFile", {"path": str(paths.scratch / "one" / "a" / "b")}).value["text"]
    assert tools.call("ReadFile", {"path": str(paths.agents_d / "x.toml")}).value["lines"] == 1
    (paths.data / "notes").mkdir()
    tools.call("WriteFile", {"path": str(paths.data / "notes" / "a"), "text": "x"})
    (paths.data / "logs-again").symlink_to(paths.logs)
    with pytest.raises(PermissionRefused):
        tools.call("ReadFile", {"path": str(paths.data / "logs-again" / "one.jsonl")})
    for path in (paths.agents_d / "x.toml", paths.agents / "x.py", paths.baml_src / "x.baml"):
        with pytest.raises(PermissionRefused):
            tools.call("WriteFile", {"path": str(path), "text": ""})


@pytest.mark.parametrize("tool", ["ReadFile", "ListFiles", "SearchText", "WriteFile"])
def test_paths_that_cannot_be_are_one_error(
    home: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves of characters, endless links, a link that goes while it is read, an unknown home."""
    more = {"text": "x"} if tool in ("SearchText", "WriteFile") else {}
    roots = ("~nobody-of-this-name/x", str(home))
    tools = Toolbox(Permissions(read=roots, write=roots))
    (home / "loop").symlink_to("loop")
    for number in range(1500):
        (home / f"l{number}").symlink_to(f"l{number + 1}")
    for path in ("\ud800", "a/\udfff", "loop/x", "l0/x"):
        with pytest.raises(ToolError):
            tools.call(tool, {"path": path, **more})
    for path in ("x" * 200, "~nobody-of-this-name/x", "l0", "."):
        with suppress(ToolError):
            tools.call(tool, {"path": path, **more})
    gone = FileNotFoundError(2, "No such file or directory")

    def vanish(*_args: Any, **_more: Any) -> Any:
        raise gone

    monkeypatch.setattr(os, "readlink", vanish)
    with pytest.raises(ToolError):
        tools.call(tool, {"path": "l1499", **more})
