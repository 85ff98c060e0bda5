"""`agentd record`, `replay` and `sessions show`, as a person runs them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentd import cli
from agentd.recordings import git_pack
from agentd.recordings import recording_file as text
from agentd.replay.capture import Capture
from agentd.replay.replay import Replay
from agentd.testing import FakeModelServer
from tests.commandline import agentd as process
from tests.recorded import FETCHED, World, done, fetch, read, reader, review


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (world.notes / "a.txt").write_text("buy milk\n")
    yield world
    world.close()


@dataclass(frozen=True)
class Called:
    returncode: int
    stdout: str
    stderr: str


Agentd = Callable[..., Called]


@pytest.fixture
def agentd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Agentd:
    """Run a command in this process: BAML takes a second to start in another one."""

    def call(home: Path, *words: str) -> Called:
        monkeypatch.setenv("AGENTD_HOME", str(home))
        capsys.readouterr()
        code = cli.main(words)
        said = capsys.readouterr()
        return Called(code, said.out, said.err)

    return call


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_record_as_test_and_replay_it_elsewhere(
    world: World, tmp_path: Path, agentd: Agentd
) -> None:
    """`record --as-test` makes a test that pytest collects and `replay` runs on any machine."""
    home, project = world.paths.user, tmp_path / "project"
    done = process(home, "record", str(fetch(world)), "--as-test", str(project))
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    replayed = process(tmp_path / "elsewhere", "replay", str(file))
    assert replayed.returncode == 0 and "identical (2 turns)" in replayed.stdout
    assert "1 passed" in run_pytest(project).stdout
    file.write_text(file.read_text().replace('"commits":1', '"commits":2'))
    failed = run_pytest(project).stdout
    assert "1 failed" in failed and "\nturn 1: result of FetchRepo differs" in failed
    assert "Traceback" not in failed
    differs = agentd(tmp_path / "elsewhere", "replay", str(file))
    assert differs.returncode == 1 and '-  "commits": 2,' in differs.stdout
    again = agentd(home, "record", "1", "--as-test", str(project))
    assert again.returncode == 2 and "is there already" in again.stderr


def test_names_are_scrubbed_only_when_asked(world: World, tmp_path: Path, agentd: Agentd) -> None:
    """`--scrub` takes out what a recording keeps otherwise, and says so."""
    (world.notes / "a.txt").write_text("write to bob@corner-shop.org\n")
    session = str(reader(world, [read("a.txt"), done()]))
    home = world.paths.user
    plain, scrubbed = tmp_path / "plain.recording", tmp_path / "scrubbed.recording"
    assert agentd(home, "record", session, "-o", str(plain)).returncode == 0
    said = agentd(home, "record", session, "-o", str(scrubbed), "--scrub")
    assert said.returncode == 0 and "redacted: e-mail" in said.stderr
    assert "bob@corner-shop.org" in plain.read_text()
    assert "bob@corner-shop.org" not in scrubbed.read_text()


def test_a_recording_that_does_not_replay_is_written_and_is_a_failure(
    world: World, tmp_path: Path, agentd: Agentd
) -> None:
    """Exit 1, with the difference: whoever makes a test of it must not believe that it holds."""
    session = reader(world, [read("a.txt"), done()])
    world.bus.db.run("UPDATE sessions SET basis = json_set(basis, '$.prompt[0].content', 'other')")
    file = tmp_path / "x.recording"
    said = agentd(world.paths.user, "record", str(session), "-o", str(file))
    assert said.returncode == 1 and file.exists()
    assert "its replay was not identical:\nturn 1: the prompt differs" in said.stderr


def test_what_a_replay_carries_out_is_an_option(world: World, agentd: Agentd) -> None:
    """All that reads; with `--live-effects` all; with `--tools recorded` nothing."""
    run = {"tool": "run_command", "program": "true", "args": []}
    session = str(reader(world, [read("a.txt"), run, done()]))
    home = world.paths.user
    reading = agentd(home, "replay", session).stdout
    assert reading == f"session {session}: identical (3 turns, 1 results taken as recorded)\n"
    nothing = agentd(home, "replay", session, "--tools", "recorded").stdout
    assert nothing == f"session {session}: identical (3 turns, 2 results taken as recorded)\n"
    everything = agentd(home, "replay", session, "--live-effects").stdout
    assert everything == f"session {session}: identical (3 turns)\n"


def test_what_a_model_might_decide_otherwise_now_is_noted(
    world: World, tmp_path: Path, agentd: Agentd
) -> None:
    """Changed bounds of decisions and arguments of tools do not show in a replay: it says so."""
    recording, _ = world.take(reader(world, [read("a.txt"), done()]))
    version = recording.head.version
    changed = text.write(recording).replace(version.union, "other")
    changed = changed.replace(version.tools["ReadFile"], "other")
    for file, content in (("same", text.write(recording)), ("changed", changed)):
        (tmp_path / f"{file}.recording").write_text(content)
    said = agentd(world.paths.user, "replay", str(tmp_path / "changed.recording"))
    assert said.returncode == 0 and "the decisions' bounds changed" in said.stdout
    assert "the arguments of ReadFile changed since the recording" in said.stdout
    same = agentd(world.paths.user, "replay", str(tmp_path / "same.recording"))
    assert "changed" not in same.stdout.split("\n", 1)[1]


def test_a_users_own_agent_is_replayed_by_pytest(
    world: World, tmp_path: Path, agentd: Agentd
) -> None:
    """The plugin takes agents/ and baml_src/ of the project that it runs in, and shows changes."""
    module = (Path(__file__).parents[1] / "agents" / "task.py").read_text()
    prompt = (Path(__file__).parents[1] / "baml_src" / "task.baml").read_text()
    project = tmp_path / "project"
    for folder in (world.paths.user, project):
        (folder / "agents").mkdir(parents=True, exist_ok=True)
        (folder / "baml_src").mkdir(exist_ok=True)
        (folder / "agents" / "own.py").write_text(module)
        (folder / "baml_src" / "own.baml").write_text(prompt)
    world.write("mine", OWN)
    world.publish("note.changed", {}, target="mine")
    session = world.run("mine", [done("well")])
    recorded = agentd(world.paths.user, "record", str(session), "--as-test", str(project))
    assert recorded.returncode == 0, recorded.stderr
    assert "1 passed" in run_pytest(project).stdout
    changed = prompt.replace("Answer:", "Decide:")
    (project / "baml_src" / "own.baml").write_text(changed)
    failed = run_pytest(project).stdout
    assert "turn 1: the prompt differs" in failed and "+Decide:" in failed
    assert "baml_src/own.baml" in failed


OWN = """agent = "own"
done = "The note was seen."
subscribe = ["note.changed"]
[params]
instructions = "See the note."
"""


def test_record_says_which_result_is_given(world: World, tmp_path: Path, agentd: Agentd) -> None:
    """The turn and the tool whose result no fixture reproduces are named, and no others."""
    (world.notes / "b.txt").write_text("same\n")
    session = str(reader(world, [read("b.txt"), read("a.txt"), done()]))
    (world.notes / "a.txt").write_text("another\n")
    recorded = agentd(world.paths.user, "record", session, "-o", str(tmp_path / "x.recording"))
    assert recorded.returncode == 0
    assert recorded.stderr.count("is given as recorded") == 1
    assert "turn 2: the result of ReadFile is given as recorded" in recorded.stderr


def test_all_sessions_after_a_change(world: World, agentd: Agentd) -> None:
    """The table says which sessions are the same, where others diverge, and what cannot run."""
    fetch(world)
    review(world)
    reader(world, [read("a.txt"), done()])
    home = world.paths.user
    same = agentd(home, "replay", "--all")
    assert same.returncode == 0, same.stdout + same.stderr
    assert same.stdout.splitlines()[-1] == "3 in all: 3 identical"
    assert "replayed: 3 of 3 recordings" in same.stderr
    toml = world.paths.agents_d / "reader.toml"
    toml.write_text(toml.read_text().replace("Read the note.", "Read the note well."))
    world.bus.db.run("UPDATE sessions SET basis = NULL WHERE id = 2")
    changed = agentd(home, "replay", "--all", "--json")
    assert changed.returncode == 1
    verdicts = json.loads(changed.stdout)
    assert [verdict["result"] for verdict in verdicts] == ["identical", "failed", "diverged"]
    assert verdicts[2]["difference"]["what"] == "the prompt"
    assert "params of its configuration" in verdicts[2]["difference"]["hint"]
    assert "too little is kept" in verdicts[1]["error"]
    table = agentd(home, "replay", "--all", "--agent", "reader").stdout.splitlines()
    assert table[1].split()[:4] == ["session", "3", "reader", "diverged"]
    assert table[1].endswith("turn 1: the prompt")
    typo = agentd(home, "replay", "--all", "--agent", "raeder")
    assert typo.returncode == 2 and "reader, repo_fetch, repo_review" in typo.stderr
    none = agentd(home, "replay", "--all", "--since", "1ms")
    assert (none.returncode, none.stdout) == (0, "no sessions to replay\n")


def test_the_agents_file_of_now_decides(world: World, agentd: Agentd) -> None:
    """Another module and other permissions show as differences; a file that is gone is said."""
    module = (Path(__file__).parents[1] / "agents" / "task.py").read_text()
    prompt = (Path(__file__).parents[1] / "baml_src" / "task.baml").read_text()
    (world.paths.agents / "own.py").write_text(module)
    (world.paths.baml_src / "own.baml").write_text(prompt.replace("Answer:", "Decide:"))
    session = str(reader(world, [read("a.txt"), done()]))
    home, toml = world.paths.user, world.paths.agents_d / "reader.toml"
    before = toml.read_text()
    assert agentd(home, "replay", session).returncode == 0
    toml.write_text(before.replace('agent = "task"', 'agent = "own"'))
    other = agentd(home, "replay", session)
    assert other.returncode == 1 and "turn 1: the prompt differs" in other.stdout
    assert "agent of its configuration" in other.stdout
    toml.write_text(before.replace(f'read = ["{world.notes}"]', "read = []"))
    refused = agentd(home, "replay", session)
    assert refused.returncode == 1 and "permissions of its configuration" in refused.stdout
    assert "permissions of its configuration" in refused.stdout
    toml.unlink()
    gone = agentd(home, "replay", session)
    assert gone.returncode == 0 and "reader.toml is gone" in gone.stdout


def test_sessions_of_unchanged_agents_run_twice_only(
    world: World, agentd: Agentd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to see what they read and once to compare; nothing is redacted that nobody gets."""
    fetch(world)
    review(world)
    played, play = list[type[Replay]](), Replay._play

    def noted(replay: Replay) -> None:
        played.append(type(replay))
        play(replay)

    monkeypatch.setattr(Replay, "_play", noted)
    monkeypatch.setattr(git_pack, "contents", None)
    assert agentd(world.paths.user, "replay", "--all").returncode == 0
    assert played == [Capture, Replay] * 2


def live(world: World, server: FakeModelServer) -> Path:
    """Configure the fake server as the home's model; return the home."""
    key = world.root / "key"
    key.write_text(server.token)
    key.chmod(0o600)
    world.paths.daemon_file.write_text(
        f'[model]\nurl = "{server.url}"\napi_key_file = "{key}"\ncontext_window = 8192\n'
    )
    return world.paths.user


def test_a_live_model_is_asked_again_at_each_turn(world: World, agentd: Agentd) -> None:
    """With the recorded log each time: it says where another model decides otherwise."""
    session = str(reader(world, [read("a.txt"), done("milk")]))
    with FakeModelServer([read("a.txt"), done("bread")]) as server:
        home = live(world, server)
        asked = agentd(home, "replay", session, "--model", "live")
        assert asked.returncode == 1, asked.stderr
        assert "turn 1: decides as recorded" in asked.stdout
        assert "turn 2: decides otherwise" in asked.stdout
        assert '+ "result": "bread"' in asked.stdout
        assert "buy milk" in server.requests[1].body["messages"][-1]["content"]
    with FakeModelServer([read("a.txt"), done("milk")]) as server:
        home = live(world, server)
        asked = agentd(home, "replay", session, "--model", "live", "--json")
        (verdict,) = json.loads(asked.stdout)
        assert asked.returncode == 0 and verdict["result"] == "identical"
        assert [turn["same"] for turn in verdict["live"]] == [True, True]


def test_a_fork_goes_on_with_the_live_model(world: World, agentd: Agentd) -> None:
    """From a turn on the live model decides; its reading tools run on the fixture."""
    (world.notes / "b.txt").write_text("buy bread\n")
    listing = {"tool": "list_files", "path": str(world.notes)}
    session = str(reader(world, [listing, read("a.txt"), read("b.txt"), done("milk")]))
    with FakeModelServer([read("b.txt"), done("bread")]) as server:
        home = live(world, server)
        forked = agentd(home, "replay", session, "--from", "2", "--model", "live")
    assert forked.returncode == 0, forked.stderr
    assert "turn 2 decision" in forked.stdout and "buy bread" in forked.stdout
    assert 'would publish note.read {"result": "bread"}' in forked.stdout
    assert len(world.events("note.read")) == 1, "nothing was published"
    run = {"tool": "run_command", "program": "true", "args": []}
    with FakeModelServer([run, done()]) as server:
        home = live(world, server)
        forked = agentd(home, "replay", session, "--from", "2", "--model", "live", "--json")
    document = json.loads(forked.stdout)
    assert forked.returncode == 1 and "RunCommand would change something" in document["stopped"]


def test_a_fork_knows_what_the_recording_lacks(world: World, agentd: Agentd) -> None:
    """A file that was listed and not read is said to be missing; what is binary stays binary."""
    (world.notes / "b.txt").write_text("buy bread\n")
    (world.notes / "c.bin").write_bytes(b"\0")
    listing = {"tool": "list_files", "path": str(world.notes)}
    session = str(reader(world, [listing, read("c.bin"), done("milk")]))
    path = str(world.notes / "b.txt")
    with FakeModelServer([read("b.txt"), read(path), read("c.bin", 2), done("bread")]) as server:
        home = live(world, server)
        forked = agentd(home, "replay", session, "--from", "3", "--model", "live", "--json")
    document = json.loads(forked.stdout)
    results = [step["payload"] for step in document["steps"] if step["kind"] == "result"]
    lacks = "is not in this recording: the session did not read it"
    assert [result["error"] for result in results[:2]] == [f"b.txt {lacks}", f"{path} {lacks}"]
    assert "is a binary file" in results[2]["error"]


def test_a_forks_events_are_json(world: World, agentd: Agentd) -> None:
    """What its steps would publish is told as `sessions show --json` tells it."""
    session = str(fetch(world))
    with FakeModelServer(FETCHED) as server:
        home = live(world, server)
        forked = agentd(home, "replay", session, "--from", "1", "--model", "live", "--json")
    document = json.loads(forked.stdout)
    (publish,) = [step["publish"] for step in document["steps"] if step["publish"]]
    assert publish[0].keys() == {"event_type", "payload"}, publish
    assert document["published"][0]["type"] == publish[0]["event_type"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "name files or sessions, or use --all"),
        (["1", "--all"], "name files or sessions, or use --all"),
        (["1", "--since", "7d"], "--since and --agent are for --all"),
        (["--all", "--since", "soon"], 'write an age ("1h", "7d")'),
        (["--all", "--since", "999999d"], "write an age"),
        (["--all", "--since", "9" * 400 + "d"], "write an age"),
        (["9" * 25], "too large: 9"),
        (["9" * 5000], "not a whole number: '9"),
        (["1", "--from", "2"], "--from goes with --model live"),
        (["1", "--tools", "recorded", "--live-effects"], "choose one"),
    ],
)
def test_a_wrong_call_is_one_line(
    tmp_path: Path, agentd: Agentd, words: list[str], error: str
) -> None:
    """Options that make no sense together are usage errors."""
    called = agentd(tmp_path, "replay", *words)
    assert called.returncode == 2 and error in called.stderr


def test_live_needs_a_model(world: World, agentd: Agentd) -> None:
    """Without a daemon there is no live model, and the next step is said."""
    called = agentd(world.paths.user, "replay", str(fetch(world)), "--model", "live")
    assert called.returncode == 3 and "none runs" in called.stderr and "agentd run" in called.stderr


def test_a_session_is_drawn_as_a_timeline(world: World, agentd: Agentd) -> None:
    """Turns with decisions, results, tokens, durations, and how full the context was."""
    session = str(reader(world, [read("a.txt"), read("a.txt"), done("milk")]))
    shown = agentd(world.paths.user, "sessions", "show", session).stdout
    assert "window 8192 tokens, 3276 to use" in shown
    assert shown.count("context [") == 3 and " % of the window" in shown
    assert "turn 3 decision" in shown and "prompt tokens" in shown
    assert "was decided before with the same arguments" in shown


def test_the_exact_prompt_of_a_turn(world: World, agentd: Agentd) -> None:
    """`--turn` prints what the model server received, also when agent and event are long gone."""
    session = str(reader(world, [read("a.txt"), done("milk")]))
    sent = world.requests[1].body["messages"]
    (world.paths.agents_d / "reader.toml").unlink()
    world.bus.db.run("UPDATE sessions SET event = NULL")
    world.bus.db.run("DELETE FROM outbox WHERE id = 1")
    home = world.paths.user
    printed = agentd(home, "sessions", "show", session, "--turn", "2", "--json")
    assert json.loads(printed.stdout) == sent
    plain = agentd(home, "sessions", "show", session, "--turn", "2").stdout
    assert plain == "".join(f"[{m['role']}]\n{m['content']}\n" for m in sent)
    wrong = agentd(home, "sessions", "show", session, "--turn", "3")
    assert wrong.returncode == 2 and "it has turns 1 to 2" in wrong.stderr
