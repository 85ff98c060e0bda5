"""The demo as a new user runs it: real processes, a real repository, a fake and a real model."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.bus import Bus
from agentd.cli import main
from agentd.commands.demo.changes import what_is_new
from agentd.commands.demo.demo import NEXT
from agentd.commands.demo.effort import effort
from agentd.commands.demo.findings import Findings
from agentd.commands.demo.headlines import ASKED, NONE, agent_file, shipped_headlines
from agentd.commands.demo.pointed import (
    SLOW,
    agent_config,
    check_repository,
    span_of,
)
from agentd.commands.demo.temporary import running_daemon, write_toml
from agentd.errors import AgentdError, StorageError, UsageError
from agentd.paths import HOME_VARIABLE, Paths, discover, shipped
from agentd.process.leave import Leave
from agentd.supervisor.client import query
from agentd.testing import FakeModelServer, Reply, Request, wait_for
from tests.repository import Repository

DEADLINE_S = 90  # of one demo with a fake model: processes start in seconds
RIGHT_LEAST = 0.6  # of the headlines; by chance a quarter
PROMPT_TOKENS_MAX, DECISION_TOKENS_MAX = 250, 30  # 2 slow cores read 7 and write 5 a second


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """A small repository with two commits."""
    repository = Repository(tmp_path / "repo")
    repository.commit("First", calc__py="def add(a, b):\n    return a - b\n", README__md="# Calc\n")
    repository.commit("Add division", calc__py="def div(a, b):\n    return a / b  # TODO zero\n")
    return repository


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A short folder for temporary files, so that a demo's leftovers are seen."""
    folder = Path(tempfile.mkdtemp(prefix="d-"))
    yield folder
    shutil.rmtree(folder)


class Demo:
    """One run of `agentd demo` with its own user folder and its own place for temporary files."""

    def __init__(
        self,
        repo: Path | None,
        place: Path,
        *words: str,
        models: Path | None = None,
        terminal: int | None = None,
    ) -> None:
        home = place / "user"
        home.mkdir()
        if models is not None:
            (home / "models").symlink_to(models)
        (place / "tmp").mkdir()
        self.temporary = place / "tmp"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentd", "demo", *words]
            + ([] if repo is None else ["--repo", str(repo)]),
            env={**os.environ, "AGENTD_HOME": str(home), "TMPDIR": str(self.temporary)},
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=place,
            start_new_session=terminal is not None,  # else the terminal would be another's
        )

    def wait(self, deadline_s: float = DEADLINE_S) -> tuple[int, str]:
        """Return the exit code and all that was printed."""
        try:
            output, _ = self.process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            pytest.fail(f"not within {deadline_s} s:\n{self.process.communicate()[0]}")
        return self.process.returncode, output

    @property
    def left(self) -> list[str]:
        """What lies in the folder for temporary files."""
        return sorted(path.name for path in self.temporary.iterdir())


@contextlib.contextmanager
def fake(answer: Any = None, scores: Any = None) -> Iterator[FakeModelServer]:
    """A fake model that does what the agents are for: fetch, a sentence for each file, Done."""
    with FakeModelServer(answer or sensible, token="", scores=scores or knowing) as server:
        yield server


def sensible(request: Request) -> dict[str, Any] | Reply:
    """Decide by what the mask allows and what the log says."""
    schema = json.dumps(request.body.get("response_format", {}))
    if "fetch_repo" in schema:
        return {"tool": "fetch_repo"}
    if "finding" in schema:
        number = str(request.body["messages"][-1]["content"]).count('<event type="finding"') + 1
        return {"tool": "finding", "note": f"Changes the file number {number}."}
    if "kind" in schema:
        return {"tool": "done", "kind": "code"}
    return {"tool": "done"} if "done" in schema else Reply("yes")


def knowing(head: str, item: str) -> float:
    """Score a headline after what it is about, and "feature" with whatever is added."""
    about = shipped_headlines().about.get(item)
    if about is not None:
        return 0.0 if f"about {about}." in head else -9.0
    return 0.0 if ("feature" in head + item) and "Add" in head + item else -9.0


def under(heading: str, output: str) -> set[str]:
    """Return the points below a line of the output."""
    below = output.partition(f"\n{heading}:\n\n")[2].partition("\n\n")[0]
    return {line.removeprefix("* ") for line in below.splitlines()}


def test_headlines_come_by_what_they_are_for(place: Path) -> None:
    """Each under its interest, the rest apart; a missing repository only says how to get more."""
    with fake() as server:
        demo = Demo(None, place, "--url", server.url, "--interest", "cooking", "--interest", "  ")
        code, output = demo.wait()
    assert code == 0, output
    about = shipped_headlines().about
    assert under("cooking", output) == {text for text, kind in about.items() if kind == "cooking"}
    assert under(NONE, output) == {text for text, kind in about.items() if kind != "cooking"}
    assert 'interests = ["cooking"]' in output, "the agent's file is shown"
    assert "is not in a git repository" in output and "demo --repo PATH" in output
    assert "To go on" in output and demo.left == []


def test_agents_that_the_demo_names_come_with_agentd() -> None:
    """What it sends a person to is there."""
    known = {file.stem for file in (shipped() / "config" / "agents.d").glob("*.toml")}
    named = set(re.findall(r"`([a-z_]+)`", NEXT)) - {"agentd", "enabled"}
    assert named <= known and "feed" in named


def test_the_agent_of_the_demo_has_ten_lines() -> None:
    """What is shown is all there is of it, whatever a person cares for."""
    interests = ['"quotes" and \\', "Sœur Éléonore", "]"]
    lines = [line for line in agent_file(interests).splitlines() if line]
    assert len(lines) == 10
    assert tomllib.loads("\n".join(lines))["params"]["interests"] == interests


def test_a_person_at_a_terminal_is_asked_for_a_line(place: Path) -> None:
    """What they write is ranked by beside the three that come with the demo."""
    ours, theirs = pty.openpty()
    with fake() as server:
        demo = Demo(None, place, "--url", server.url, terminal=theirs)
        os.close(theirs)
        came, output = b"", ""

        def heard(words: str) -> bool:
            nonlocal came, output
            with contextlib.suppress(OSError):  # the other end is closed
                if select.select([ours], [], [], 0)[0]:
                    came += os.read(ours, 65536)  # it may end in the middle of a character
                    output = came.decode(errors="replace").replace("\r\n", "\n")
            return words in output

        wait_for(lambda: heard("A line about what you care for"), seconds=DEADLINE_S)
        os.write(ours, b"  old   maps \n")
        wait_for(lambda: heard("To go on"), seconds=DEADLINE_S)
        wait_for(lambda: heard("\0") or demo.process.poll() is not None, seconds=DEADLINE_S)
    os.close(ours)
    assert demo.process.returncode == 0, output
    assert '"computer security", "old maps"]' in output
    assert under("old maps", output) == {"none of these"}


def test_a_server_that_cannot_rank_says_so(repo: Repository, place: Path) -> None:
    """Another program's server has no scores: the repository is looked at all the same."""
    with FakeModelServer(sensible, token="") as server:
        code, output = Demo(repo.path, place, "--url", server.url).wait()
    assert code == 0, output
    assert "cannot rank" in output and "Add division" in output


def test_the_demo_says_what_is_new(repo: Repository, place: Path) -> None:
    """Facts from git, kinds, the risk and why, what is in no commit; saved as it was shown."""
    repo.write("draft.py", "x = 1\n")
    before = repo.git("status", "--porcelain")
    with fake() as server:
        demo = Demo(repo.path, place, "--url", server.url, "--save", "page.md")
        code, output = demo.wait()
    assert code == 0, output
    assert re.search(r"repo_fetch +repo\.changed", output)
    assert "The week up to the latest commit: 2 commits, 2 files, +3 -0 lines; high risk" in output
    assert "`Add division`" in output
    assert "* code changed, and no test with it\n* 1 TODO, FIXME or XXX added\n" in output
    assert "* feature `calc.py` +2 -0: Changes the file number 1.\n" in output
    assert "* docs `README.md` +1 -0" in output
    assert "Not committed yet, 1 file, +1 -0 lines; medium risk" in output
    assert "* ? `draft.py` +1 -0" in output
    assert "prompt tokens" in output
    assert demo.left == []
    assert repo.git("status", "--porcelain") == before, "nothing is written into the repository"
    page = place / "page.md"
    assert page.stat().st_mode & 0o777 == 0o600
    text = page.read_text()
    assert text.startswith("# agentd demo\n\n## What of this is for you?\n\n")
    shown = [line for line in text.splitlines() if not line.startswith("#")]
    assert set(shown) <= set(output.splitlines())


@pytest.mark.parametrize("case", ["file", "link", "no folder"])
def test_a_page_is_saved_as_a_new_file_alone(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is never written over: an error before any work is done."""
    file = tmp_path / "page.md"
    if case == "file":
        file.write_text("mine")
    elif case == "link":
        file.symlink_to("nowhere")
    else:
        file = tmp_path / "absent" / "page.md"
    assert main(["demo", "--save", str(file)]) == 2
    said = capsys.readouterr().err
    assert ("is no folder" if case == "no folder" else "is there already") in said
    assert not (tmp_path / "nowhere").exists()
    if case != "no folder":
        with pytest.raises(AgentdError, match="cannot be saved"):
            Findings().save(file)  # it came while the agents worked
    assert case != "file" or file.read_text() == "mine"


def test_too_many_interests(capsys: pytest.CaptureFixture[str]) -> None:
    """More than an agent takes are refused before anything starts."""
    many = [word for number in range(17) for word in ("--interest", f"number {number}")]
    assert main(["demo", *many]) == 2
    assert "at most 16" in capsys.readouterr().err


def test_a_strange_repository_is_no_problem(repo: Repository, place: Path) -> None:
    """Strange file names, binary files and hundreds of changes fit: bounded, and shown safely."""
    for number in range(300):
        repo.write(f"many/{number}.txt", "x\n")
    repo.write("with\nnewline \x1b[2J.py", "print(1)\n" * 500)
    repo.write(b"not-utf8-\xff.py", "print(2)\n" * 400)
    repo.write("zero", b"\0" * 5000)
    repo.commit("S\x1b[31m" + "long " * 100)
    with fake() as server:
        code, output = Demo(repo.path, place, "--url", server.url).wait()
    assert code == 0, output
    assert "3 commits, 305 files" in output
    assert "\x1b" not in output
    # 20 are shown, or 3 where the machine was slow just when the demo measured it.
    assert re.search(r"lines in the (20|3) that changed most", output)


def test_a_repository_below_the_folder_is_found(repo: Repository, place: Path) -> None:
    """Standing in a folder of the repository is enough."""
    repo.write("src/a.py", "1\n")
    repo.commit("Source")
    with fake() as server:
        code, output = Demo(repo.path / "src", place, "--url", server.url, "--small").wait()
    assert code == 0, output
    assert str(repo.path) in output


@pytest.mark.parametrize(
    "case", ["missing", "file", "plain", "empty", "bare", "worktree", "loop", "dot git"]
)
def test_what_is_no_repository(case: str, tmp_path: Path, place: Path) -> None:
    """A folder that is no repository, or one without a commit, is a usage error with a hint."""
    path = tmp_path / case
    if case == "worktree":
        main = Repository(tmp_path / "main")
        main.commit("first", a__py="1")
        main.git("worktree", "add", "-q", str(path))
        shutil.rmtree(main.path)
    if case == "loop":
        path.symlink_to(path)
    if case == "dot git":
        Repository(path).commit("first", a__py="1")
        path = path / ".git"
    if case == "file":
        path.write_text("x")
    elif case == "plain":
        path.mkdir()
    elif case == "empty":
        Repository(path)
    elif case == "bare":
        Repository(path, init=False).git("init", "-q", "--bare")
    demo = Demo(path, place)
    code, output = demo.wait()
    assert code == 2, output
    assert "--repo" in output and "Traceback" not in output
    assert demo.left == []


@pytest.mark.parametrize("spelling", ["../plain", "./../plain/", "sub/../../plain", "../link"])
def test_a_folder_beside_the_repository_is_not_the_one_you_stand_in(
    spelling: str, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above `../plain` is not where one stands."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "link").symlink_to("plain")
    (repo.path / "sub").mkdir()
    monkeypatch.chdir(repo.path)
    with pytest.raises(UsageError, match="is not in a git repository"):
        check_repository(Path(spelling))
    for absent in ("../absent", "../plain/absent", "absent", "~nobody-at-all/x"):
        with pytest.raises(UsageError, match=r"is not a folder|cannot be used"):
            check_repository(Path(absent))
    (repo.path / "out").symlink_to(tmp_path / "plain")
    with pytest.raises(UsageError, match="is not in a git repository"):
        check_repository(Path("out"))  # as `cd out && git status` says


def test_the_repository_that_is_meant_is_found(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By any spelling, from below, through a link, and in a worktree of its own."""
    (repo.path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(repo.path / "sub")
    other = Repository(tmp_path / "other")
    other.commit("first", a__py="1")
    repo.git("worktree", "add", "-q", str(tmp_path / "tree"))
    monkeypatch.chdir(repo.path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelling in (".", "", "..", "deep", "../../link/deep", "~/repo", "~/repo//sub/../sub/"):
        assert check_repository(Path(spelling)) == repo.path, spelling
    for spelling in ("../../other", "../../tree/../other", str(tmp_path / "repo" / ".." / "other")):
        assert check_repository(Path(spelling)) == other.path, spelling
    assert check_repository(Path("../../tree")) == tmp_path / "tree"


def test_an_empty_name_is_not_the_folder_you_stand_in(
    repo: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a shell's variable that is not set."""
    monkeypatch.chdir(repo.path)
    assert main(["demo", "--repo", ""]) == 2
    assert "is empty" in capsys.readouterr().err


def test_a_model_that_fails_is_told(repo: Repository, place: Path) -> None:
    """When the agents cannot come to their end the demo says why, keeps its home, and exits 1."""

    def broken(request: Request) -> Any:
        if "response_format" not in request.body:
            return Reply("yes")  # the demo's own call, by which it measures the speed
        return Reply("no such thing", status=404)

    with fake(broken) as server:
        demo = Demo(repo.path, place, "--url", server.url)
        code, output = demo.wait()
    assert code == 1, output
    assert "Traceback" not in output
    assert "not every event was answered" in output
    (kept,) = re.findall(r"kept (\S+):", output)
    assert demo.left == [Path(kept).name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_leaves_nothing(number: signal.Signals, repo: Repository, place: Path) -> None:
    """Ctrl-C, SIGTERM or a closed terminal stops all processes and removes the home, quietly."""

    def hanging(request: Request) -> Any:
        return Reply(hang=True) if "response_format" in request.body else Reply("yes")

    with fake(hanging) as server:
        demo = Demo(repo.path, place, "--url", server.url)
        assert server.hanging.acquire(timeout=DEADLINE_S), "an agent's call is under way"
        processes = psutil.Process(demo.process.pid).children(recursive=True)
        assert len(processes) >= 3, "the daemon and two workers"
        demo.process.send_signal(number)
        code, output = demo.wait()
    assert code == 128 + number, output
    assert "Traceback" not in output
    assert demo.left == []
    assert psutil.wait_procs(processes, timeout=DEADLINE_S)[1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["home", "daemon", "impatient"])
def test_a_signal_at_any_moment_leaves_nothing(
    number: signal.Signals, moment: str, repo: Repository, place: Path
) -> None:
    """While the home is made, while the daemon starts, and again and again while it stops."""
    with fake() as server:
        demo = Demo(repo.path, place, "--url", server.url)
        pattern = {"home": "agentd-demo-*", "daemon": "agentd-demo-*/logs/run.out"}
        wait_for(
            lambda: any(demo.temporary.glob(pattern.get(moment, "agentd-demo-*/logs/run.out"))),
            seconds=DEADLINE_S,
        )
        processes = psutil.Process(demo.process.pid).children(recursive=True)
        demo.process.send_signal(number)
        if moment == "impatient":
            for again in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                demo.process.send_signal(again)
        code, output = demo.wait()
    assert code in (128 + number, 128 + signal.SIGTERM, 128 + signal.SIGHUP, 130), output
    assert "Traceback" not in output
    assert psutil.wait_procs(processes, timeout=DEADLINE_S)[1] == []
    assert demo.left == []


def test_what_is_held_is_whole_before_a_signal_ends_the_program() -> None:
    """The first signal waits until then, and further ones say that somebody is in a hurry."""
    leave, done = Leave(), []
    with pytest.raises(SystemExit, match="143"), leave.held():
        leave.signalled(signal.SIGTERM, None)
        with leave.held():
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"] and leave.insisted
    leave.signalled(signal.SIGINT, None)  # the clean-up goes on
    leave = Leave()
    with pytest.raises(KeyboardInterrupt):
        leave.signalled(signal.SIGINT, None)
    assert not leave.insisted


def test_a_late_signal_does_not_change_how_a_program_ends() -> None:
    """Who left at a signal and cleaned up is not killed by the next one, at the last moment."""
    program = """if True:
        import atexit, os, signal
        from agentd.process.leave import stoppable
        atexit.register(os.kill, os.getpid(), signal.SIGTERM)
        with stoppable():
            with stoppable():
                os.kill(os.getpid(), signal.SIGHUP)
    """
    done = subprocess.run([sys.executable, "-c", program], timeout=DEADLINE_S)
    assert done.returncode == 128 + signal.SIGHUP


def test_a_daemon_that_is_busy_while_it_starts_is_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer in time, on a machine with other work, has not failed."""
    home, busy = discover({HOME_VARIABLE: str(place)}), [StorageError("it did not answer")]
    home.create()

    def asked(paths: Paths) -> dict[str, Any]:
        if busy:
            raise busy.pop()
        return query(paths)

    monkeypatch.setattr("agentd.commands.demo.temporary.query", asked)
    with running_daemon(home) as daemon:
        assert query(home)["pid"] == daemon.child.pid and not busy
        busy.append(StorageError("it did not answer"))
        assert daemon.status() is None  # as while it is not there yet: who waits goes on waiting
        assert (daemon.status() or {})["pid"] == daemon.child.pid


def test_nothing_to_look_at_is_not_kept(repo: Repository, place: Path) -> None:
    """A misspelt model fails before the daemon starts: one error, and no folder."""
    demo = Demo(repo.path, place, "--model", str(place / "no-such-model"))
    code, output = demo.wait()
    assert code != 0 and "Traceback" not in output, output
    assert "kept" not in output and demo.left == []


def test_a_killed_demo_takes_its_processes_with_it(repo: Repository, place: Path) -> None:
    """Not even kill -9 of the demo leaves a daemon or a worker behind."""

    def hanging(request: Request) -> Any:
        return Reply(hang=True) if "response_format" in request.body else Reply("yes")

    with fake(hanging) as server:
        demo = Demo(repo.path, place, "--url", server.url)
        assert server.hanging.acquire(timeout=DEADLINE_S)
        processes = psutil.Process(demo.process.pid).children(recursive=True)
        demo.process.kill()
        demo.process.communicate()
        wait_for(lambda: not any(p.is_running() for p in processes), seconds=DEADLINE_S)


@pytest.mark.agentd_online  # fetches the model, once
@pytest.mark.timeout(600)
def test_the_demo_on_the_bundled_model(repo: Repository, place: Path, smollm2: Path) -> None:
    """The real server and model end every session, within the budget, without a word of their own.

    A machine with two slow cores reads and writes the tokens of the decisions in 40 seconds.
    """
    words = ("--keep", "--save", "page.md")
    code, output = Demo(repo.path, place, *words, models=smollm2.parent).wait(570)
    assert code == 0, output
    (kept,) = re.findall(r"kept (\S+):", output)
    bus = Bus(Path(kept) / "agentd.db")
    total = effort(bus)
    events = bus.events.list(limit=1000)
    findings = [event for event in events if event.event_type == "review.finding"]
    bus.close()
    assert [row.error for row in total.sessions] == [None] * 3
    assert {event.payload["note"] for event in findings} == {""}
    assert total.prompt - total.cached <= PROMPT_TOKENS_MAX
    assert total.decided <= DECISION_TOKENS_MAX
    shipped = shipped_headlines()
    about = shipped.about.items()
    right = len(under(NONE, output) & {t for t, k in about if k not in shipped.interests})
    right += sum(len(under(i, output) & {t for t, k in about if k == i}) for i in shipped.interests)
    asked = next(e for e in events if e.event_type == ASKED).payload["headlines"]
    assert right >= RIGHT_LEAST * len(asked), output


def test_configuration_files_survive_any_text(tmp_path: Path) -> None:
    """What the demo writes as TOML reads back the same, whatever a path or a text holds."""
    data = {
        "text": 'quote " back \\ tab \t bell \x07 delete \x7f é 🙂',
        "number": 3,
        "on": True,
        "limits": {"turns": 2, "list": ["a", "b"], "inline": {"every": "15m"}},
    }
    write_toml(tmp_path / "a.toml", data)
    assert tomllib.loads((tmp_path / "a.toml").read_text(encoding="utf-8")) == data
    config = agent_config("repo_review", tmp_path, SLOW)
    assert config["enabled"] is True and config["permissions"] == {"read": [str(tmp_path)]}


def test_a_worktree_is_permitted_with_all_that_git_reads(repo: Repository, tmp_path: Path) -> None:
    """A linked worktree keeps its commits elsewhere: the fetching agent is permitted that, too."""
    tree = tmp_path / "tree"
    repo.git("worktree", "add", "-q", str(tree))
    read = agent_config("repo_fetch", tree, SLOW)["permissions"]["read"]
    assert {str(tree), str(repo.path / ".git")} <= set(read)
    assert agent_config("repo_review", tree, SLOW)["permissions"]["read"] == [str(tree)]


def test_a_branch_is_looked_at_from_where_it_left(repo: Repository) -> None:
    """On the main branch, or one that has nothing more, it is the last week."""
    assert span_of(repo.path).against is None
    repo.git("switch", "-q", "-c", "work")
    assert span_of(repo.path).against is None
    repo.commit("Work", a__py="1\n")
    assert span_of(repo.path).against == "main"
    assert (
        agent_config("repo_fetch", repo.path, SLOW, against="main")["params"]["against"] == "main"
    )


def test_nothing_new_is_said() -> None:
    """A repository without a change of the last week has a page all the same."""
    assert what_is_new([], [], "The week") == "Nothing: no commit, and no work that is in none."
