"""Files that a person drops: what is read, what is told, and what is left alone."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from agentd.admission.admit import admit
from agentd.config.agent import load_agent
from agentd.config.agent_files import agent_names, overlooked
from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError
from agentd.llm.listing import read_key
from agentd.paths import Paths, discover
from agentd.supervisor import file_changes
from agentd.testing import wait_for
from tests.commandline import HELLO, agentd, write_agent
from tests.supervised import DEADLINE_S, Daemon, daemon
from tests.test_admission import BAML, MODULE, TOML, drop

GOOD = 'agent = "task"\ndone = "Something is done."\n[params]\ninstructions = "Do it."\n'
BOM = "\ufeff"
ODD_BYTES = b"odd-\xff\xfe.toml"  # no file system of a Mac takes it; Linux does


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = discover({"AGENTD_HOME": str(tmp_path / "home")})
    found.create()
    return found


def told(paths: Paths) -> dict[str, str]:
    """What is told of each file, by its path below the home."""
    root = str(paths.user) + "/"
    return {str(o.path).removeprefix(root): f"{o.what}; {o.hint}" for o in overlooked(paths)}


@pytest.mark.parametrize(
    ("name", "right"),
    [
        *(("x.TOML", "x.toml"), ("x.Toml", "x.toml"), ("My Notes.TOML", "my_notes.toml")),
        *(("x.toml.txt", "x.toml"), ("X.TOML.TXT", "x.toml"), ("x.toml.rtf", "x.toml")),
        *(("x.toml ", "x.toml"), ("x.toml.", "x.toml"), ("x.toml copy", "x.toml")),
        *(("x.toml (1)", "x.toml"), (".x.toml", "x.toml"), (".X.TOML", "x.toml")),
        ("x.toml.md.txt", "x.toml"),
    ],
)
def test_a_name_that_is_not_quite_right_is_told(paths: Paths, name: str, right: str) -> None:
    """TextEdit and Windows add .txt, downloads a number, and a dot in front hides."""
    (paths.agents_d / name).touch()
    ((_, text),) = told(paths).items()
    assert "is not read" in text and f"rename it to {right}" in text
    assert agent_names(paths.agents_d) == []


@pytest.mark.parametrize(
    "name",
    [
        *("x.toml~", ".x.toml.swp", ".x.toml.swo", "x.toml.bak", ".DS_Store", "#x.toml#", "4913"),
        *(".#x.toml", "._x.toml", "x.toml.orig", "x.toml.save.1", "x.toml.~1~", "x.toml.tmp"),
        *(".goutputstream-X1", ".x.toml.AbC123", "x.toml.sb-8f2a-Qx", "README.md", "x.tml", "toml"),
        *("x.toml5", "notes.txt", ".gitignore", ".toml", "x.toml.disabled", "x.toml.2026"),
    ],
)
def test_what_editors_leave_is_left_alone(paths: Paths, name: str) -> None:
    """Nobody wants these to be read, and most are gone in a moment."""
    (paths.agents_d / name).touch()
    assert told(paths) == {} and agent_names(paths.agents_d) == []


def test_every_folder_of_a_persons_is_looked_at(paths: Paths) -> None:
    """agentd.toml, modules and prompts have names to get wrong as well; so have folders."""
    for file in (
        *("config/agentd.toml.txt", "config/AGENTD.TOML", "config/reader.toml"),
        *("agents/x.PY", "agents/x.py.txt", "agents/.x.py", "baml_src/x.baml.txt"),
        *(
            "config/agents.d/team/a.toml",
            "config/agents.d/team/deep/b.TOML",
            "config/agent.d/c.toml",
        ),
        *("agents/more/y.py", "baml_src/more/y.baml"),
        # These belong where they are, or concern nobody.
        *("config/agentd.toml", "config/eval/mine.toml", "config/agent.schema.json"),
        *("agents/__pycache__/x.py", "agents/.git/x.py", "agents/x.pyc", "agents/lib/readme.txt"),
        *("config/agents.d/pictures/a.png", "agents/x.py", "baml_src/x.baml"),
    ):
        (paths.user / file).parent.mkdir(parents=True, exist_ok=True)
        (paths.user / file).touch()
    found = told(paths)
    assert set(found) == {
        *("config/agentd.toml.txt", "config/AGENTD.TOML", "config/reader.toml"),
        *("agents/x.PY", "agents/x.py.txt", "agents/.x.py", "baml_src/x.baml.txt"),
        *("config/agents.d/team", "config/agent.d", "agents/more", "baml_src/more"),
    }
    assert "a.toml, deep/b.TOML" in found["config/agents.d/team"]
    assert "agents.d" in found["config/agent.d"] and "agents.d" in found["config/reader.toml"]


def test_a_folder_is_not_walked_for_ever(paths: Paths, tmp_path: Path) -> None:
    """A link to everything, a ring of links, and a folder that cannot be listed cost nothing."""
    (paths.agents_d / "all").symlink_to("/")
    (paths.agents_d / "ring").symlink_to(paths.agents_d)
    (paths.agents / "loop").symlink_to(paths.agents / "loop")
    (paths.baml_src / "file.baml").symlink_to("/dev/zero")
    for item in overlooked(paths):
        assert item.path.parent == paths.agents_d


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
@pytest.mark.parametrize("folder", ["agents_d", "agents", "baml_src", "config", "models", "logs"])
def test_a_name_that_is_not_utf8_breaks_no_command(
    tmp_path: Path, paths: Paths, folder: str
) -> None:
    """It can be no agent's; whoever lists the folder says so, or passes it over."""
    raw = os.fsencode(getattr(paths, folder))
    for name in (ODD_BYTES, b"x\xff.TOML", b"\xff.py", b"\xff.baml", b"\xff.jsonl", b".\xff.toml"):
        Path(os.fsdecode(raw + b"/" + name)).write_text(GOOD)
    Path(os.fsdecode(raw + b"/sub\xff")).mkdir()
    Path(os.fsdecode(raw + b"/sub\xff/y.toml")).write_text(GOOD)
    write_agent(paths.user, "hello", HELLO)
    for words in ("status", "check", "doctor", "logs", "model", "sessions"):
        for more in ([], ["--json"]):
            done = agentd(paths.user, words, *more)
            assert "Traceback" not in done.stderr, done.stderr
            if more and done.stdout:
                for line in done.stdout.splitlines() if words == "logs" else [done.stdout]:
                    json.dumps(json.loads(line), ensure_ascii=False).encode()  # no half characters
    if folder == "agents_d":
        problems = json.loads(agentd(paths.user, "check", "--json").stdout)["problems"]
        assert [p["name"] for p in problems] == [r"odd-\xff\xfe"]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path / "home") as one:
        yield one.start()


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_status_of_a_daemon_lives_with_a_name_that_is_not_utf8(running: Daemon) -> None:
    """One such name in agents.d, and every `agentd status` ended in a traceback."""
    raw = os.fsencode(running.paths.agents_d)
    Path(os.fsdecode(raw)).mkdir(parents=True, exist_ok=True)
    Path(os.fsdecode(raw + b"/" + ODD_BYTES)).write_text(GOOD)
    running.drop("good")
    running.wait_state("good", "RUNNING")
    wait_for(lambda: running.agent(r"odd-\xff\xfe").get("state") == "INVALID")
    done = agentd(running.home, "status", "--json")
    assert done.returncode == 0, done.stderr
    agents = {agent["name"]: agent for agent in json.loads(done.stdout)["agents"]}
    assert agents[r"odd-\xff\xfe"]["problem"]["where"].endswith(r"/odd-\xff\xfe.toml")
    assert agentd(running.home, "status", r"odd-\xff\xfe").returncode == 0
    assert r"odd-\xff\xfe" in agentd(running.home, "status").stdout


def test_commands_tell_what_is_not_read(paths: Paths) -> None:
    """status, check and doctor; none of them fails for it."""
    (paths.agents_d / "reader.toml.txt").write_text(GOOD)
    shown = agentd(paths.user, "status").stdout
    assert "reader.toml.txt" in shown and "rename it to reader.toml" in shown
    document = json.loads(agentd(paths.user, "status", "--json").stdout)
    assert document["overlooked"][0]["where"].endswith("reader.toml.txt")
    done = agentd(paths.user, "check")
    assert done.returncode == 0
    assert "warning" in done.stdout and "rename it to reader.toml" in done.stdout
    done = agentd(paths.user, "doctor", "--json")
    (finding,) = [f for f in json.loads(done.stdout)["findings"] if f["name"] == "files"]
    assert finding["level"] == "warning" and "rename it" in finding["hint"]


# --- what is in a file


@pytest.mark.parametrize("load", [load_agent, load_daemon])
@pytest.mark.parametrize("start", ["", BOM])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_editors_do_to_text_is_read(
    tmp_path: Path, load: Callable[[Path], object], start: str, newline: str
) -> None:
    """A byte order mark, and the line ends of Windows."""
    path = tmp_path / "reader.toml"
    text = GOOD if load is load_agent else '[model]\nname = "smollm2-135m"\n'
    path.write_bytes((start + text.replace("\n", newline)).encode())
    load(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (GOOD.encode("utf-16"), "is UTF-16 text"),
        (BOM.encode("utf-16-be") + GOOD.encode("utf-16-be"), "is UTF-16 text"),
        (GOOD.encode("utf-16-le"), r"holds a NUL character \(line 1\)"),
        (GOOD.encode() + b"# \0", r"holds a NUL character \(line 5\)"),
        (GOOD.encode() + "# \u00e4".encode("latin-1"), r"is not UTF-8 text \(line 5\)"),
        (BOM.encode() * 2 + GOOD.encode(), "is not valid TOML"),
    ],
)
def test_what_is_no_utf8_says_so(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "reader.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=what) as caught:
        load_agent(path)
    assert caught.value.where == str(path) and caught.value.hint


def test_curly_quotes_are_named(tmp_path: Path) -> None:
    """Word processors write them, and they look right."""
    path = tmp_path / "reader.toml"
    path.write_text("agent = \u201ctask\u201d\n")
    with pytest.raises(ConfigError) as caught:
        load_agent(path)
    assert "straight quotes" in caught.value.hint and "line 1" in caught.value.what


def test_modules_and_prompts_are_read_likewise(paths: Paths) -> None:
    """With a byte order mark and CRLF they work; UTF-16 is one clear error, not a wrong keyword."""
    edited = {
        key: BOM + text.replace("\n", "\r\n")
        for key, text in {"toml": TOML, "module": MODULE, "baml": BAML}.items()
    }
    drop(paths, **edited)
    assert admit("greeter", paths).name == "greeter"
    for file, text in (("agents/greeter.py", MODULE), ("baml_src/greeter.baml", BAML)):
        drop(paths)
        (paths.user / file).write_bytes(text.encode("utf-16"))
        with pytest.raises(ConfigError, match="is UTF-16 text") as caught:
            admit("greeter", paths)
        assert caught.value.where == str(paths.user / file)


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b"secret\n", "secret"),
        (BOM.encode() + b"secret\r\n", "secret"),
        (b"", ""),
        (b"two\nlines", None),
        ("secret".encode("utf-16"), None),
        (b"\xff", None),
        ("schl\u00fcssel".encode(), None),
    ],
)
def test_a_key_is_one_line(tmp_path: Path, data: bytes, key: str | None) -> None:
    """Its file is written by a person, too; a second line would be a header of its own."""
    path = tmp_path / "key"
    path.write_bytes(data)
    if key is not None:
        assert read_key(path) == key
        return
    with pytest.raises(ConfigError) as caught:
        read_key(path)
    assert "api_key_file" in caught.value.where and "secret" not in str(caught.value)


def test_a_key_is_read_of_a_file_alone(tmp_path: Path) -> None:
    """A pipe is not waited for, and a device is not read without end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "device", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_key(path)


# --- links


@pytest.mark.parametrize("kind", ["file", "its folder", "another link on the way", "agents.d"])
def test_an_edit_behind_a_link_is_noticed_soon(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dotfiles lie in a folder that nobody watches: 30 s is no time to wait for a save."""
    monkeypatch.setattr(file_changes, "LOOK_AGAIN_S", 600.0)
    folder, real = tmp_path / "agents.d", tmp_path / "real"
    real.mkdir()
    (real / "x.toml").write_text("1")
    if kind == "agents.d":
        folder.symlink_to(real)
    else:
        folder.mkdir()
        (tmp_path / "hop").symlink_to(real)
        leads = {"file": real, "its folder": real, "another link on the way": tmp_path / "hop"}
        (folder / "x.toml").symlink_to(leads[kind] / "x.toml")

    def edit() -> None:
        if kind == "file":
            (real / "x.toml").write_text("2")
        elif kind == "its folder":
            real.rename(tmp_path / "old")
            real.mkdir()
            (real / "x.toml").write_text("22")
        else:
            new = tmp_path / "new"
            new.mkdir()
            (new / "x.toml").write_text("222")
            link = folder if kind == "agents.d" else tmp_path / "hop"
            (tmp_path / "half").symlink_to(new)
            (tmp_path / "half").replace(link)

    async def noticed() -> frozenset[Path]:
        stop = asyncio.Event()
        looks, watched, stamps = 0, asyncio.Event(), file_changes.stamps

        def counted(folders: Sequence[Path]) -> dict[Path, file_changes.Stamp]:
            nonlocal looks
            looks += 1
            if looks == 2:  # the one soon after a new watcher's start, which finds everything
                asyncio.get_running_loop().call_soon(watched.set)
            return stamps(folders)

        found = file_changes.changes([folder], stamps([folder]), stop)
        monkeypatch.setattr(file_changes, "stamps", counted)
        first = asyncio.ensure_future(anext(found))
        async with asyncio.timeout(DEADLINE_S):
            await watched.wait()
        edit()
        async with asyncio.timeout(DEADLINE_S):
            return await first

    assert asyncio.run(noticed()) == {folder / "x.toml"}


def test_without_links_nobody_looks_so_often(tmp_path: Path) -> None:
    """It would cost a core something, for nothing."""
    (tmp_path / "x.toml").touch()
    home = Path(os.path.realpath(tmp_path))
    assert not file_changes.linked([home, home / "missing"])
    (home / "y.toml").symlink_to("x.toml")
    assert file_changes.linked([home])
    (tmp_path / "way").symlink_to(home)
    (home / "y.toml").unlink()
    assert file_changes.linked([tmp_path / "way"]) and not file_changes.linked([home / "missing"])
