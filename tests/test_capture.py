"""What goes into a fixture: just what was read, within the caps; nothing is ever written."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.admission.admit import admit
from agentd.recordings import git_pack, recording_file
from agentd.recordings.recording import Root
from agentd.replay import capture
from agentd.replay.folder_map import FolderMap
from tests.recorded import FETCHED, World, done, fetch, read, reader, reader_toml, review
from tests.repository import Repository

BAML = """
class Look {
  tool "look"
  path string
}

class Store {
  tool "store"
}

class Done {
  tool "done"
}

function Own(context: string, done: string) -> Look | Store | Done {
  client Local
  prompt #"
    {{ _.role("system") }}
    Look. Done: {{ done }}
    {{ Decisions() }}
    {{ _.role("user") }}
    {{ context }}
  "#
}
"""
AGENT = """
import os
from pathlib import Path
from agentd.agent import Agent, Result
from pydantic import BaseModel

class Params(BaseModel):
    folder: str

class Own(Agent):
    Params = Params
    function = "Own"
    reads = frozenset({"Look"})

    def dispatch(self, decision):
        folder = Path(self.params.folder)
        match decision:
            case self.kit.types.Look():
                names = sorted(os.listdir(folder))
                text = (folder / decision.path).read_text()
                return Result({"names": names, "text": text, "at": str(folder)}, trusted=False)
            case self.kit.types.Store():
                (folder.parent / "stored.txt").write_text("stored")
                return Result({"stored": True})
"""
TOML = """agent = "own"
done = "The folder was looked at."
subscribe = ["note.changed"]
[params]
folder = "{folder}"
[permissions]
run = ["touch"]
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (world.notes / "a.txt").write_text("buy milk\n")
    (world.notes / "b.txt").write_text("not looked at\n")
    yield world
    world.close()


def own(world: World, module: str = AGENT) -> int:
    (world.paths.agents / "own.py").write_text(module)
    (world.paths.baml_src / "own.baml").write_text(BAML)
    world.write("mine", TOML.format(folder=world.notes))
    world.publish("note.changed", {}, target="mine")
    return world.run(
        "mine", [{"tool": "look", "path": "a.txt"}, {"tool": "store"}, {"tool": "done"}]
    )


def test_what_own_code_opens_is_captured(world: World) -> None:
    """An agent that reads files and folders without the shared tools replays as well."""
    recording, outcome = world.take(own(world))
    assert outcome.difference is None and outcome.given == 1
    assert recording.fixture.files == {"0/a.txt": b"buy milk\n"}
    assert list(recording.fixture.folders["0"]) == ["a.txt", "b.txt"]
    (world.notes / "a.txt").unlink()
    assert world.replay(recording).difference is None


def test_half_a_character_in_an_outcome_is_kept(world: World, tmp_path: Path) -> None:
    """Own code may return what UTF-8 has not, such as half a file name; its file is read again."""
    broken = (
        AGENT
        + """
    def finish(self, done, event, results):
        return Result({"name": "a\\udcff"})
"""
    )
    session = own(world, broken)
    recording, outcome = world.take(session)
    assert outcome.difference is None
    assert recording.head.session.outcome == {"name": "a\udcff"}
    recording_file.save(recording, tmp_path / "x.recording")
    assert recording_file.load(tmp_path / "x.recording") == recording


def test_a_single_file_named_in_the_parameters_is_captured(world: World) -> None:
    """Own code that reads just one file replays where that file is not."""
    single = AGENT.replace("names = sorted(os.listdir(folder))", "names = []").replace(
        "(folder / decision.path).read_text()", "folder.read_text()"
    )
    (world.notes / "only.txt").write_text("just this\n")
    notes, world.notes = world.notes, world.notes / "only.txt"
    recording, outcome = world.take(own(world, single))
    assert outcome.difference is None and recording.given == frozenset()
    assert recording.fixture.files == {"0": b"just this\n"}
    (notes / "only.txt").unlink()
    assert world.replay(recording).difference is None


def test_what_is_not_declared_to_read_is_not_run(world: World) -> None:
    """Neither while it is recorded nor in a replay is a decision carried out that may write."""
    session = own(world)
    (world.root / "stored.txt").unlink()
    recording, _ = world.take(session)
    assert world.replay(recording).difference is None
    assert not (world.root / "stored.txt").exists()


@pytest.mark.parametrize("method", ["begin", "opening", "finish"])
def test_what_surrounds_the_decisions_has_no_effects(world: World, method: str) -> None:
    """`begin`, `opening` and `finish` run again: what they write or start for real is refused."""
    session = own(world)
    journal, marker = world.notes / "journal.txt", world.notes / "marker"
    journal.write_text("once\n")
    for effect in (
        "(folder / 'journal.txt').open('a').write('again')",
        f"Path({str(journal)!r}).unlink()",
        f"self.kit.tools.call('RunCommand', {{'program': 'touch', 'args': [{str(marker)!r}]}})",
        f"__import__('subprocess').run(['touch', {str(marker)!r}])",
        f"Path({str(marker)!r}).mkdir()",
    ):
        changed = f"""
    def {method}(self, *args):
        folder = Path(self.params.folder)
        try:
            {effect}
        finally:
            return super().{method}(*args)
"""
        (world.paths.agents / "own.py").write_text(AGENT + changed)
        shutil.rmtree(world.paths.versions, ignore_errors=True)  # so that the code of now is taken
        recording, _ = world.take(session)
        world.replay(recording)
        assert journal.read_text() == "once\n" and not marker.exists(), effect
    refused = (
        AGENT
        + f"""
    def finish(self, *args):
        Path({str(marker)!r}).mkdir()
"""
    )
    (world.paths.agents / "own.py").write_text(refused)
    difference = world.replay(recording).difference
    assert difference is not None and "may not be changed here" in difference.now


def test_only_what_was_read_is_in_the_fixture(world: World) -> None:
    """A file beside it is not; a listing has its size alone."""
    recording, _ = world.take(reader(world, [read("a.txt"), done()]))
    assert set(recording.fixture.files) == {"0/a.txt"}
    listing = {"tool": "list_files", "path": str(world.notes)}
    recording, _ = world.take(reader(world, [listing, done()]))
    assert recording.fixture.files == {}
    assert recording.fixture.folders["0"] == {"a.txt": 9, "b.txt": 14}
    assert "not looked at" not in recording_file.write(recording)


def test_what_is_too_large_is_taken_as_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the caps a result is given, and the recording stays small."""
    (world.notes / "a.txt").write_text("a line\n" * 1000)
    session = reader(world, [read("a.txt"), done()])
    monkeypatch.setattr(capture, "FILE_BYTES_MAX", 100)
    recording, outcome = world.take(session)
    assert outcome.difference is None and recording.given == {3} and not recording.fixture.files
    session = fetch(world)
    monkeypatch.setattr(git_pack, "PACK_BYTES_MAX", 100)
    recording, outcome = world.take(session)
    assert outcome.difference is None and recording.given == {3}


def test_a_long_history_makes_a_small_pack(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the session looked at is packed: not the other files, not all of the history."""
    monkeypatch.setattr(git_pack, "COMMITS_MAX", 3)
    for n in range(6):
        world.repo.commit(f"commit {n}", **{f"big{n}__bin": os.urandom(20_000)})
    session = fetch(world)
    recording, outcome = world.take(session)
    assert outcome.difference is None and recording.given == frozenset()
    repository = recording.fixture.repositories["0"]
    assert len(repository.pack) < 3_000 and len(repository.shallow) == 1


def test_a_branch_and_a_moved_head(world: World) -> None:
    """A followed branch and one that went on since the session are as they were then."""
    world.repo.commit("start", a__py="1\n")
    world.repo.git("checkout", "-q", "-b", "topic")
    world.repo.commit("on the branch", b__py="2\n")
    world.repo.git("checkout", "-q", "main")
    world.shipped("repo_fetch", **{'# branch = "main" ': 'branch = "topic" #'})
    world.publish("agent.trigger", {}, target="repo_fetch")
    session = world.run("repo_fetch", FETCHED)
    world.repo.git("checkout", "-q", "topic")
    world.repo.commit("later", c__py="3\n")
    recording, outcome = world.take(session)
    assert outcome.difference is None and recording.given == frozenset()
    assert world.replay(recording).difference is None


def test_a_session_without_news_replays(world: World) -> None:
    """The second look finds nothing, from the same remembered commit."""
    fetch(world)
    world.publish("agent.trigger", {}, target="repo_fetch")
    recording, outcome = world.take(world.run("repo_fetch", FETCHED))
    assert outcome.difference is None and recording.given == frozenset()
    assert recording.head.session.outcome == {"kind": "code", "commits": 0, "files": 0}
    assert recording.facts(1)["last_commit"]["repo"] == str(world.repo.path)


def test_paths_are_mapped_in_every_spelling(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~/notes`, a link to it, and its real path are one folder, in the replay as well."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(world.notes)
    real, world.notes = world.notes, Path("~/notes")
    session = reader(world, [read("~/notes/a.txt"), read(str(real / "a.txt")), done()])
    recording, outcome = world.take(session)
    assert outcome.difference is None and recording.given == frozenset()
    assert json.dumps(recording.steps[2].payload).count(str(real)) == 1
    monkeypatch.setenv("HOME", "/nowhere")
    assert world.replay(recording).difference is None
    world.notes = tmp_path / "link"
    session = reader(world, [read(str(tmp_path / "link" / "a.txt")), done()])
    recording, outcome = world.take(session)
    assert outcome.difference is None and recording.given == frozenset()


SPELLINGS = {
    "home": "~/notes/a.txt",
    "home twice slashed": "~//notes//a.txt",
    "a link": "{home}/link/a.txt",
    "a link among folders": "{home}/links/notes/a.txt",
    "up and down": "{home}/notes/../notes/a.txt",
    "up from home": "~/elsewhere/../notes/a.txt",
    "double slashes": "{home}/notes//a.txt",
    "dots": "{home}/./notes/./a.txt",
    "a folder with a slash": "{home}/notes/",
    "home with a slash": "~/notes/",
    "up inside": "{home}/notes/sub/../a.txt",
    "a link inside": "{home}/notes/inner.txt",
    "nfc": "~/notes/caf\u00e9.txt",
    "nfd": "~/notes/cafe\u0301.txt",
    "a blank": "~/notes/two words.txt",
    "absent": "~/notes/absent.txt",
    "elsewhere": "~/elsewhere/b.txt",
    "nobody's home": "~nobody-at-all/notes/a.txt",
    "relative": "a.txt",
    "relative, up and down": "../notes/a.txt",
    "in a sentence": "see ~/notes/a.txt, or ~/notes.",
    "a tilde alone": "about ~ 5 of ~",
    "other case": "{home}/NOTES/a.txt",
}


@pytest.mark.parametrize("permitted", ["~/notes", "{home}/notes", "{home}/link/", "~/./notes/"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_event_may_spell_a_path_in_any_way(
    world: World, monkeypatch: pytest.MonkeyPatch, permitted: str, spelling: str
) -> None:
    """The log shows what was written; the tools find what was meant, on another machine too."""
    home = world.root / "ann"
    for folder in ("notes/sub", "elsewhere", "links"):
        (home / folder).mkdir(parents=True)
    for name in ("a.txt", "caf\u00e9.txt", "cafe\u0301.txt", "two words.txt"):
        (home / "notes" / name).write_text(f"{name!a}\n")
    (home / "elsewhere" / "b.txt").write_text("b\n")
    (home / "link").symlink_to(home / "notes")
    (home / "links" / "notes").symlink_to("../notes")
    (home / "notes" / "inner.txt").symlink_to("a.txt")
    monkeypatch.setenv("HOME", str(home))
    path = SPELLINGS[spelling].format(home=home)
    world.write("reader", NOTES.format(folder=permitted.format(home=home)))
    world.publish("note.changed", {"path": path}, target="reader")
    session = world.run("reader", [read(path), {"tool": "list_files", "path": path}, done(path)])
    recording, outcome = world.take(session)
    assert outcome.difference is None, outcome.difference
    assert path in recording_file.write(recording)
    monkeypatch.setenv("HOME", "/nowhere")
    shutil.rmtree(home)
    again = world.replay(recording_file.read(recording_file.write(recording), "x"))
    assert again.difference is None, again.difference
    if spelling in ("home", "a link", "up and down", "double slashes", "nfd", "up from home"):
        assert recording.given == frozenset(), "the fixture has it"


NOTES = """agent = "task"
done = "The note that the event names is read."
subscribe = ["note.changed"]
[params]
instructions = "Read the note."
tools = ["ListFiles", "ReadFile"]
publish = "note.read"
[permissions]
read = ["{folder}"]
"""


def test_a_folder_inside_another_is_one_place(world: World) -> None:
    """However the outer and the inner one are permitted and spelled."""
    (world.notes / "deep").mkdir()
    (world.notes / "deep" / "b.txt").write_text("deep\n")
    (world.root / "short").symlink_to(world.notes / "deep")
    for folders in (("short", "notes"), ("notes", "short"), ("short", "notes/deep", "notes")):
        written = '", "'.join(str(world.root / folder) for folder in folders)
        world.write("reader", NOTES.format(folder=written))
        world.publish("note.changed", {"path": str(world.root / "short")}, target="reader")
        paths = [world.root / "short" / "b.txt", world.notes / "deep" / "b.txt"]
        search = {"tool": "list_files", "path": str(world.notes)}
        session = world.run("reader", [*[read(str(path)) for path in paths], search, done()])
        recording, outcome = world.take(session)
        assert outcome.difference is None and recording.given == frozenset()


def test_mapped_folders_never_lead_out(tmp_path: Path) -> None:
    """A recording's folders may be written by somebody else."""
    evil = [
        Root(path="/a"),
        *[
            Root(path=f"/a/{inner}", spellings=[f"~{number}"])
            for number, inner in enumerate(("../../../etc", "..", ".git/hooks", "b/.GIT", "git~1"))
        ],
        Root(path="/a/b/c"),
    ]
    mapped = FolderMap(evil, tmp_path)
    assert mapped.folders[1:6] == [tmp_path / str(number) for number in range(1, 6)]
    assert mapped.folders[6] == tmp_path / "0" / "b" / "c"
    assert set(mapped.links.values()) <= set(mapped.folders)
    assert mapped.as_recorded(mapped.as_here("~3/x /a/b/c/x ~0")) == "~3/x /a/b/c/x ~0"


def test_a_repository_is_only_read(world: World) -> None:
    """Recording leaves no object, no lock and no file in the user's repository."""
    sessions = (fetch(world), review(world))

    def everything() -> dict[str, int]:
        files = [path for path in world.repo.path.rglob("*") if path.is_file()]
        return {str(path): path.stat().st_mtime_ns for path in files}

    before = everything()
    for session in sessions:
        world.take(session)
    assert everything() == before


def test_what_is_closed_is_neither_read_nor_recorded(world: World) -> None:
    """With everything permitted, agentd's own stays out of the session and out of its recording."""
    log = world.paths.log("other")
    log.parent.mkdir()
    log.write_text("what another agent did")
    (world.root / "second").hardlink_to(log)
    world.write("reader", reader_toml(world.root, turns=9))
    world.publish("note.changed", {"path": "a.txt"}, target="reader")
    session = world.run(
        "reader",
        [
            *(read("home/logs/other/other.jsonl"), read("second"), read("notes/a.txt")),
            {"tool": "search_text", "path": "home", "text": "what"},
            {"tool": "search_text", "path": "", "text": "what"},
            {"tool": "write_file", "path": "repo/.git/config", "text": "[core]"},
            done(),
        ],
    )
    results = [
        step.payload for step in world.sessions.archive.show(session)[1] if step.kind == "result"
    ]
    refused = [number for number, result in enumerate(results) if "error" in result]
    assert refused == [0, 1, 3, 5] and results[4]["found"] == []
    recording, outcome = world.take(session)
    assert outcome.identical and b"buy milk\n" in recording.fixture.files.values()
    recording_file.save(recording, world.root / "x.recording")
    assert "another agent" not in (world.root / "x.recording").read_text()


def test_a_repository_that_leads_elsewhere_is_refused_while_it_runs(world: World) -> None:
    """What was right at admission is looked at again: a `.git` that points away opens nothing."""
    world.repo.commit("start", a__py="1\n")
    other = Repository(world.root / "other")
    other.commit("secret", s__py="1\n")
    world.shipped("repo_fetch")
    admit("repo_fetch", world.paths)
    (world.repo.path / ".git").rename(world.root / "away")
    (world.repo.path / ".git").symlink_to(other.path / ".git")
    accepted = admit("repo_fetch", world.paths)  # known already: nothing is checked anew
    assert accepted.config.permissions.read == (str(world.repo.path),)
    world.publish("agent.trigger", {}, target="repo_fetch")
    session = world.run("repo_fetch", FETCHED)
    _row, steps = world.sessions.archive.show(session)
    assert "outside of what may be touched" in str([step.payload for step in steps])
    assert world.events("repo.changed") == []


def test_a_session_that_a_test_runs_leaves_nothing_open(world: World) -> None:
    """Hundreds of them in one process once ran out of the descriptors that `select` can take."""
    own(world)
    before = len(list(Path("/dev/fd").iterdir()))
    own(world)
    assert len(list(Path("/dev/fd").iterdir())) <= before
