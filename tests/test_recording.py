"""A recording's file: what stands in it, and one clear error for each that cannot be used."""

import json
import re
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agentd.config.daemon import ModelConfig
from agentd.errors import ConfigError, RecordingError
from agentd.recordings import recording_file as text
from agentd.recordings.recording import Recording, prompt_at, tool_digest
from agentd.replay.replay import Replay
from agentd.replay.sources import of_file
from agentd.replay.verdicts import replay_all
from tests.recorded import World, done, fetch, read, reader

END = "\n=== end\n"  # a mutation puts one more section before it
NUL = "refs/heads/a\\u0000b"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (world.notes / "a.txt").write_text("buy milk\n=== end\n\\=== not a section\n")
    (world.notes / "b.bin").write_bytes(b"\xff\x00\xfe")
    yield world
    world.close()


@pytest.fixture
def recording(world: World) -> Recording:
    return world.take(reader(world, [read("a.txt"), read("b.bin"), done()]))[0]


def load(world: World, tmp_path: Path, content: str) -> Any:
    file = tmp_path / "x.recording"
    file.write_text(content)
    return of_file(file, world.paths, world.workshop)


def test_the_file_can_be_read_by_a_person(world: World) -> None:
    """The log as the model saw it, the decisions, the prompt, and what the tools read."""
    (world.notes / "a.txt").write_text("buy milk\n")
    session = reader(world, [read("a.txt"), done()])
    written = text.write(world.take(session)[0])
    assert written.startswith("agentd recording, format 1\n=== head\n{\n")
    assert written.endswith("=== end\n")
    assert '<event type="read_file" ts="' in written
    assert '"text":"buy milk"}\n</event>\n' in written
    assert "=== prompt system\nRead the note.\n" in written
    assert "=== file 0/a.txt\nbuy milk\n\n" in written


def test_the_head_says_what_it_depended_on(world: World, recording: Recording) -> None:
    """The model, its window, and digests by which a change of what it may decide is seen."""
    head = recording.head
    assert (head.model.name, head.model.window) == (ModelConfig().name, 8192)
    assert head.model.fixed_tokens > 0
    assert head.agentd == version("local-agentd") and head.agent == "reader"
    assert head.version.tools == {
        name: tool_digest(name) for name in head.config["params"]["tools"]
    }
    code = world.workshop.current("task", world.paths, "test")
    union, _ = Replay(recording, code, world.workshop).describe()
    assert head.version.union == union and len(union) == 16
    assert head.version.sources == code.sources and "agent.py" in code.sources


def test_every_prompt_is_the_one_that_was_sent(world: World) -> None:
    """The messages of each turn are those that the model server received, to the letter."""
    recording, _ = world.take(reader(world, [read("a.txt"), read("a.txt", 2), done()]))
    sent = [request.body["messages"] for request in world.requests]
    about = (recording.messages, recording.steps, recording.texts)
    assert [prompt_at(turn, *about) for turn in (1, 2, 3)] == sent


def test_text_that_looks_like_a_section_stays_text(recording: Recording) -> None:
    """A file with our own marks in it, and a binary one, come back byte by byte."""
    again = text.read(text.write(recording), "x")
    assert again == recording
    assert again.fixture.files["0/a.txt"].endswith(b"=== end\n\\=== not a section\n")
    assert again.fixture.files["0/b.bin"] == b"\xff\x00\xfe"


def test_a_file_is_written_whole_and_private(recording: Recording, tmp_path: Path) -> None:
    """Nobody reads half of one; it is the owner's alone."""
    file = tmp_path / "deep" / "x.recording"
    text.save(recording, file)
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in file.parent.iterdir()] == ["x.recording"]
    with pytest.raises(RecordingError, match="cannot be written"):
        text.save(recording, tmp_path / "deep" / "x.recording" / "y.recording")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("format 1", "format 2", "of format 2; this agentd reads format 1"),
        ("agentd recording", "some other", "is no recording"),
        ("\n=== end\n", "\n", "is cut off after line"),
        ("=== steps", "=== stops", "line .*: stops: is damaged: there is no such section"),
        ('"seq":2', '"seq":7', "its steps are not numbered"),
        ('"kind":"decision"', '"kind":"decided"', "steps: is damaged: kind"),
        ('"agent": "reader"', '"agent": 7', "head: is damaged: agent"),
        ('"attempts": 1', '"attempt": 1', "not one of this agentd: limits.attempt"),
        ("</event>", "</evnt>", "the log cannot be read"),
        ("=== base64 0/b.bin\n", "=== base64 0/b.bin\n!", "base64: is damaged"),
        ("\n=== head", "\r\n=== head", "line ends were changed"),
        ("=== file 0/a.txt", "=== file 0/../../a.txt", "its fixture names '0/../../a.txt'"),
        ("=== file 0/a.txt", "=== file 0/.git/config", "its fixture names '0/.git/config'"),
        ("=== file 0/a.txt", "=== file 9/a.txt", "its fixture names '9/a.txt'"),
        *[
            ("=== file 0/a.txt", f"=== file {json.dumps(name)}", "its fixture names")
            for name in (
                *("0/.GIT/config", "0/.Git/hooks/x", "0/a/.gIt", "0/git~1/config", "0/GIT~12/x"),
                *("0/.g\u200cit/config", "0/.gi\ufefft/config", "0/\u206f.git/x", "0/.git./x"),
                *("0/.git /config", "0/.git::$INDEX_ALLOCATION/config", "0/a\\.git\\config"),
                *("0/.git\u200d/config", "0/\u202a.\u202eGIT/x", "0/a:b/../x", "0/.git. ./x"),
                *("0/../.git/config", "/etc/passwd", "0//etc/passwd", "0/a/./b", "../0/a", "0/a/"),
                *(
                    "0/a\0b",
                    "-1/a",
                    "\u0660/a",
                    "0/NUL",
                    "0/con.txt",
                    "0/Aux",
                    "0/com1.log",
                    "0/...",
                ),
            )
        ],
    ],
)
def test_a_bad_file_is_one_clear_error(
    world: World, recording: Recording, tmp_path: Path, old: str, new: str, what: str
) -> None:
    """Another format, a cut file, a damaged section, a path that leads out: what, where, hint."""
    content = text.write(recording).replace(old, new, 1)
    file = tmp_path / "x.recording"
    file.write_bytes(content.encode())
    with pytest.raises(RecordingError, match=what) as error:
        of_file(file, world.paths, world.workshop).replay(world.workshop)
    assert str(file) in str(error.value) and error.value.hint


DEEP = "[" * 5000 + "]" * 5000
LONG = "x" * 300


WRITTEN = "its fixture cannot be written"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"id": 1,', f'"id": {2**63},', "head: is damaged: (session|event).id: "),
        ('"active_s"', f'"context_tokens":{2**63},"active_s"', "damaged: context_tokens"),
        ("head\n{", f'head\n{{"deep": {DEEP}, ', "head: is damaged: "),
        ('"text":"buy', f'"deep":{DEEP},"text":"buy', "the log cannot be read: "),
        (END, f"folder 0/c\n{DEEP}", "folder: is damaged: nests too deeply"),
        (END, "folder 0/c\n[]", "folder: is damaged: "),
        (END, 'folder 0/c\n{"a":-1}', "folder: is damaged: a"),
        (END, f'folder 0/c\n{{"a":{10**400}}}', "folder: is damaged: a"),
        (END, f'folder 0/c\n{{"a":{2**63 - 1}}}', WRITTEN),
        (END, f'folder 0/c\n{{"{LONG}":1}}', WRITTEN),
        (END, "folder 0/a.txt\n{}", WRITTEN),
        (END, 'file "0/\\ud800"\n', WRITTEN),
        *[
            (END, f"folder 0/c\n{json.dumps({name: 1})}", "its fixture lists")
            for name in (".git", ".GIT", "git~1", ".g\u200cit", "..", "a/b", "a\0b", "", "lpt1")
        ],
        (END, 'folder 0/c\n{".GIT":null}', "its fixture lists"),
        (END, f"file 0/{LONG}\n", WRITTEN),
        (END, "file 0/a.txt/b\n", WRITTEN),
        (END, "file 0\n", WRITTEN),
        (END, 'repository 0\n{"head":[],"refs":{},"shallow":[]}\n', "repository: is damaged: head"),
        (
            END,
            'repository 0\n{"head":"H","refs":[1],"shallow":[]}\n',
            "repository: is damaged: refs",
        ),
        (END, f'repository 0\n{{"head":"H","refs":{{"{NUL}":"1"}},"shallow":[]}}\nAA==', WRITTEN),
        (END, 'page http://h/\n["url"]\n', "page: is damaged"),
        (END, f"page http://h/\n{DEEP}\n", "page: is damaged: nests too deeply"),
    ],
)
def test_a_hostile_file_is_one_clear_error(
    world: World, recording: Recording, tmp_path: Path, old: str, new: str, what: str
) -> None:
    """What no database, no file system and no parser takes is said, and ends no run of several."""
    good, bad = tmp_path / "good.recording", tmp_path / "bad.recording"
    good.write_text(text.write(recording))
    if old == END:
        new = f"\n=== {new}{END}"
    bad.write_text(text.write(recording).replace(old, new))
    sources = [
        (f.name, partial(of_file, f, world.paths, world.workshop)) for f in (good, bad, good)
    ]
    verdicts = list(replay_all(sources, world.workshop))
    assert [verdict.word for verdict in verdicts] == ["identical", "failed", "identical"]
    error = verdicts[1].error
    assert error is not None and re.search(what, str(error)) and error.hint


def test_a_file_without_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is not read for ever, nor a huge file whole."""
    monkeypatch.setattr(text, "BYTES_MAX", 1000)
    with pytest.raises(RecordingError, match="is larger than 1000 bytes"):
        text.load(Path("/dev/zero"))


def test_a_file_that_is_not_there(world: World) -> None:
    """A wrong name says what can be named instead."""
    with pytest.raises(RecordingError, match="cannot be read") as error:
        of_file(Path("/nowhere/x.recording"), world.paths, world.workshop)
    assert "session's id" in error.value.hint


def test_an_agent_that_is_gone(world: World, recording: Recording, tmp_path: Path) -> None:
    """A recording of a module that is here no more names it, and those that are."""
    content = text.write(recording).replace('"agent": "task"', '"agent": "gone_agent"')
    with pytest.raises(RecordingError, match="there is no agent `gone_agent` here") as error:
        load(world, tmp_path, content)
    assert "repo_fetch" in error.value.hint


def test_a_tool_that_is_gone(world: World, recording: Recording, tmp_path: Path) -> None:
    """A tool of the configuration that does not exist is named, with those that do."""
    content = text.write(recording).replace('"SearchText",', '"FindText",')
    with pytest.raises(ConfigError, match="there is no tool FindText") as error:
        load(world, tmp_path, content).replay(world.workshop)
    assert "ReadFile" in error.value.hint


def test_a_decision_that_is_gone(world: World) -> None:
    """A decision class that the agent's union has no more is named, with its turn."""
    recording, _ = world.take(fetch(world))
    changed = text.write(recording).replace('"type":"FetchRepo"', '"type":"PullRepo"')
    with pytest.raises(RecordingError, match="turn 1 decided PullRepo") as error:
        world.replay(text.read(changed, "x"))
    assert "Done, FetchRepo" in error.value.hint


def test_a_session_that_cannot_be_recorded(world: World) -> None:
    """One that runs, or of which too little is kept, says so."""
    session = fetch(world)
    world.bus.db.run("UPDATE sessions SET state = 'running' WHERE id = ?", (session,))
    with pytest.raises(RecordingError, match="still runs"):
        world.take(session)
    world.bus.db.run("UPDATE sessions SET state = 'ended', basis = NULL WHERE id = ?", (session,))
    with pytest.raises(RecordingError, match="too little is kept"):
        world.take(session)


def test_a_session_whose_event_is_gone(world: World) -> None:
    """A pruned event is named as what is missing."""
    session = fetch(world)
    world.bus.db.run("DELETE FROM outbox WHERE id = 1")
    with pytest.raises(RecordingError, match="was pruned"):
        world.take(session)
