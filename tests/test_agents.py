"""The shipped agents and configuration: real repositories, the real bus and loop, a scripted model.

Each agent is admitted as the daemon does it, so its prompt, union and module are the shipped ones.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentd.admission.admit import admit
from agentd.admission.version import Version, load_version
from agentd.agent import Kit, Score, Scores
from agentd.approval.approval import Policy
from agentd.bus import Bus
from agentd.config.agent import load_agent
from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError, ModelMisconfigured, Stopped, ToolError
from agentd.events import Event, Lane, NewEvent
from agentd.llm.baml import load_client
from agentd.loop import Ending, Loop
from agentd.paths import Paths, discover, shipped
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.states import Priority
from agentd.task_agent.row_examples import params_of
from agentd.testing import ScriptedLLM
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.toolbox import Toolbox
from agentd.worker.runner import repeatable
from tests.repository import Repository

SHIPPED = shipped() / "config"
NAMES = (
    "assistant",
    "repo_fetch",
    "repo_review",
    "digest",
    "feed",
    "mail_triage",
    "notes",
    "log_watch",
    "inbox",
    "brief",
)
PLACEHOLDER = "/path/to/your/repository"


class Memory(dict[str, Any]):
    """The facts, as a worker hands them to an agent."""


@dataclass
class Home:
    """Accepted versions of the shipped agents, and a bus."""

    paths: Paths
    bus: Bus
    repo: Repository

    def version(self, name: str, *, turns: int = 16, **params: Any) -> Version:
        text = (SHIPPED / "agents.d" / f"{name}.toml").read_text()
        text = text.replace(PLACEHOLDER, str(self.repo.path)).replace("enabled = false", "")
        text = text.replace("turns = 16", f"turns = {turns}")
        for key, value in params.items():
            text = re.sub(rf"^(# )?{key} = \S+", f"{key} = {json.dumps(value)}", text, flags=re.M)
        (self.paths.agents_d / f"{name}.toml").write_text(text)
        return load_version(admit(name, self.paths).folder)

    def publish(self, event_type: str, payload: dict[str, Any], target: str | None = None) -> None:
        event = NewEvent(event_type, payload, target=target)
        self.bus.publish("person", event, priority=Priority.PERSON, system=True)

    def run(
        self,
        name: str,
        script: Callable[[Any], Any],
        score: Score | None = None,
        **params: Any,
    ) -> Ending:
        """Run one session of the agent for its next event, and close it."""
        version = self.version(name, **params)
        config = version.accepted.config
        self.bus.accept(name, "v", subscribe=config.subscribe)
        for lane in (Lane(name, True), Lane(name, False, config.subscribe)):
            event = self.bus.next(lane)
            if event is not None:
                break
        assert event is not None
        sessions = Sessions(self.bus)
        session = sessions.begin(lane, event, "v", config.limits)
        assert isinstance(session, Session)
        types = load_client(version.client_dir).types
        tools, facts = Toolbox(config.permissions), self.facts(name)
        kit = Kit(name, config.done, tools, facts, types, score=score or by_words)
        loop = Loop(
            session,
            version.agent(version.params, kit),
            ScriptedLLM(script(types), names=("FetchRepo", "ReadFile", "Finding", "Done")),
            sessions.journal,
            idempotent=repeatable(version, REGISTRY),
            policy=Policy(),
            call_deadline_s=5,
            log=structlog.get_logger(),
            beat=lambda _promise: None,
        )
        ending = loop.run()
        result = ending.result
        sessions.closing.close(
            session, publish=result.publish, remember=result.remember, outcome=result.value
        )
        self.log = loop.transcript.context.text
        return ending

    def facts(self, name: str) -> Memory:
        return Memory(self.bus.facts.of(name))

    def events(self, event_type: str) -> list[Event]:
        return list(self.bus.events.list(event_type=event_type))

    def fetch(self, **params: Any) -> dict[str, Any]:
        self.publish("agent.trigger", {}, target="repo_fetch")
        ending = self.run(
            "repo_fetch", lambda t: [t.FetchRepo(tool="fetch_repo"), fetched(t)], **params
        )
        return dict(ending.result.value)


def fetched(types: Any, kind: str = "code") -> Any:
    return types.Done(tool="done", kind=kind)


def done(types: Any) -> Any:
    return types.Done(tool="done")


def finding(types: Any, note: str = "it has no test") -> Any:
    return types.Finding(tool="finding", note=note)


def by_words(heads: Sequence[str], items: Sequence[str]) -> Scores:
    """Stand for the model: what shares a word goes together."""

    def of(head: str, item: str) -> float:
        words = {word.rstrip('s:"') for word in head.lower().split()}
        return float(bool(words & {word.rstrip("s") for word in item.lower().split()}))

    return Scores(heads, items, [[of(head, item) for item in items] for head in heads], "words")


def read(types: Any, path: str, start: int | None = None) -> Any:
    return types.ReadFile(tool="read_file", path=path, start=start)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    paths = discover({"AGENTD_HOME": str(tmp_path / "home")})
    paths.create()
    bus = Bus(paths.database)
    for name in NAMES:
        bus.accept(name, "v", subscribe=load_agent(SHIPPED / "agents.d" / f"{name}.toml").subscribe)
    yield Home(paths, bus, Repository(tmp_path / "repo"))
    bus.close()


def test_a_change_is_published_once(home: Home) -> None:
    """New commits become one typed event; the next look finds nothing and publishes nothing."""
    home.repo.commit("start", a__py="1\n")
    tip = home.repo.commit("more", a__py="1\n2\n", b__md="x\n")
    assert home.fetch(days=0) == {"kind": "code", "commits": 1, "files": 2}
    (event,) = home.events("repo.changed")
    payload = event.payload
    assert (payload["head"], payload["repo"]) == (tip, str(home.repo.path))
    assert payload["commits"] == [{"id": tip, "subject": "more"}]
    assert [(f["path"], f["status"], f["added"], f["size"]) for f in payload["files"]] == [
        ("a.py", "changed", 1, 4),
        ("b.md", "added", 1, 2),
    ]
    assert home.fetch() == {"kind": "code", "commits": 0, "files": 0}
    home.repo.commit("third", c__py="")
    assert home.fetch()["commits"] == 1
    assert len(home.events("repo.changed")) == 2
    assert home.events("repo.changed")[-1].payload["since"] == tip


def test_all_that_a_branch_has_and_another_has_not(home: Home) -> None:
    """Published anew as the branch grows, or as the other one does and takes it in."""
    home.repo.commit("start", a__py="1\n")
    home.repo.git("switch", "-q", "-c", "mine")
    home.repo.commit("one", b__py="1\n")
    home.fetch(against="main")
    home.repo.commit("two", c__py="1\n")
    home.fetch(against="main")
    home.fetch(against="main")
    found = [[c["subject"] for c in e.payload["commits"]] for e in home.events("repo.changed")]
    assert found == [["one"], ["two", "one"]]


def test_uncommitted_work_is_published_once_in_each_state(home: Home) -> None:
    """It is no commit: the same commits are not told again for it."""
    home.repo.commit("start", a__py="1\n")
    home.fetch(uncommitted=True)
    home.repo.write("a.py", "1\n2\n")
    for _ in range(2):
        home.fetch(uncommitted=True)
    home.repo.write("b.py", "1\n")
    home.fetch(uncommitted=True)
    found = [e.payload for e in home.events("repo.changed")]
    assert [[file["path"] for file in item["files"]] for item in found] == [
        ["a.py"],
        ["a.py"],
        ["a.py", "b.py"],
    ]
    assert [item["uncommitted"] for item in found] == [False, True, True]
    home.run("repo_review", lambda t: [done(t)])
    home.run("repo_review", lambda t: [done(t)])
    assert home.events("review.done")[-1].payload["title"].startswith("repo: uncommitted work, 1 f")


def test_many_files_become_several_bounded_events(home: Home) -> None:
    """No file is dropped in silence: parts of bounded size, all counted."""
    home.repo.commit("start")
    home.repo.commit("many", **{f"f{n:02}__py": "x\n" for n in range(25)})
    home.fetch(max_files=10)
    parts = [event.payload for event in home.events("repo.changed")]
    assert [(len(p["files"]), p["part"], p["parts"]) for p in parts] == [
        (10, 1, 3),
        (10, 2, 3),
        (5, 3, 3),
    ]
    assert all((p["total_files"], p["files_left_out"]) == (25, 0) for p in parts)
    assert len({f["path"] for p in parts for f in p["files"]}) == 25


def test_done_at_once_still_looks(home: Home) -> None:
    """A model that never decides FetchRepo does not keep the news from the bus."""
    home.repo.commit("start", a__py="1\n")
    home.publish("agent.trigger", {}, target="repo_fetch")
    ending = home.run("repo_fetch", lambda t: [fetched(t, "none")])
    assert ending.result.value == {"kind": "none", "commits": 1, "files": 1}
    assert len(home.events("repo.changed")) == 1
    assert home.fetch()["commits"] == 0


def test_a_broken_repository_fails_the_session(home: Home) -> None:
    """A repository that git cannot read is a failed session, not a quiet end."""
    home.repo.commit("start", a__py="1\n")
    (home.repo.path / ".git" / "HEAD").write_text("junk")
    with pytest.raises(ToolError, match="git rev-parse failed"):
        home.fetch()
    assert home.events("repo.changed") == []


def test_a_stop_ends_a_look_at_the_repository(home: Home) -> None:
    """git may take its 20 s, several times over: the worker's stop reaches it."""
    home.repo.commit("start")
    version = home.version("repo_fetch")
    tools = Toolbox(version.accepted.config.permissions)
    types = load_client(version.client_dir).types
    kit = Kit("repo_fetch", "", tools, home.facts("repo_fetch"), types)
    agent = version.agent(version.params, kit)
    home.publish("agent.trigger", {}, target="repo_fetch")
    agent.begin(home.events("agent.trigger")[0], [])
    tools.close()
    with pytest.raises(Stopped):
        agent.dispatch(types.FetchRepo(tool="fetch_repo"))


def test_an_empty_repository_is_quiet(home: Home) -> None:
    """Before the first commit there is nothing to publish, and nothing to remember."""
    assert home.fetch()["commits"] == 0
    assert home.facts("repo_fetch") == {}


def test_commit_texts_are_not_trusted(home: Home) -> None:
    """What the repository says reaches the model as untrusted, and only a little of it."""
    home.repo.commit("start", **{"<b>__py": "1\n"})
    home.fetch()
    result = home.log.partition('<event type="fetch_repo"')[2]
    assert result.partition("\n")[0].endswith('trusted="no">')
    assert '{"commits":1,"files":1,"top":["\\u003cb\\u003e.py +1 -0"]}' in result


@pytest.mark.parametrize(
    ("repo", "why"),
    [
        ("relative", "is relative"),
        ("/nowhere/at/all", "is not a folder"),
        ("{tmp}", "is no git repository"),
    ],
)
def test_a_wrong_repository_is_told_at_admission(
    home: Home, tmp_path: Path, repo: str, why: str
) -> None:
    """The file is refused with key, reason and next step before anything runs."""
    text = (SHIPPED / "agents.d" / "repo_fetch.toml").read_text()
    text = text.replace(PLACEHOLDER, repo.format(tmp=tmp_path))
    (home.paths.agents_d / "repo_fetch.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"params\.repo: .*{why}"):
        admit("repo_fetch", home.paths)


def test_the_repository_answers_to_the_permissions(home: Home, tmp_path: Path) -> None:
    """What git reads must be listed, also what lies elsewhere: told at admission, with the line."""
    home.repo.commit("start", a__py="1\n")
    tree = tmp_path / "tree"
    home.repo.git("worktree", "add", "-q", str(tree))
    text = (SHIPPED / "agents.d" / "repo_fetch.toml").read_text()
    file = home.paths.agents_d / "repo_fetch.toml"
    for repo, read, missing in (
        (home.repo.path, [], str(home.repo.path)),
        (home.repo.path, [str(tree)], str(home.repo.path)),
        (tree, [str(tree)], str(home.repo.path / ".git" / "worktrees" / "tree")),
    ):
        changed = re.sub("^read = .*", f"read = {json.dumps(read)}", text, flags=re.M)
        file.write_text(changed.replace(PLACEHOLDER, str(repo)))
        with pytest.raises(ConfigError, match=r"permissions\.read") as refused:
            admit("repo_fetch", home.paths)
        assert missing in refused.value.what and missing in refused.value.hint
        named = json.loads(refused.value.hint.partition("read = ")[2].partition(";")[0])
        changed = re.sub("^read = .*", f"read = {json.dumps([*read, *named])}", text, flags=re.M)
        file.write_text(changed.replace(PLACEHOLDER, str(repo)))
        admit("repo_fetch", home.paths)


def test_each_file_has_a_finding(home: Home) -> None:
    """Facts come from git, kinds from paths and scores, the risk from facts: nothing is asked."""
    home.repo.commit("start", old__py="1\n" * 9)
    home.fetch()
    home.run("repo_review", lambda t: [done(t)])
    home.repo.commit("a new feature", src__py="1\n2 # TODO\n", docs__md="x\n", a__png=b"\0")
    home.repo.git("rm", "-q", "old.py")
    home.repo.commit("no word of it")
    home.fetch()
    ending = home.run("repo_review", lambda t: [done(t)])
    _, *findings = [event.payload for event in home.events("review.finding")]
    assert {item["path"]: item["kind"] for item in findings} == {
        "old.py": "?",
        "src.py": "feature",
        "docs.md": "docs",
        "a.png": "other",
    }
    first = next(item for item in findings if item["path"] == "src.py")
    assert first["margin"] > 0 and first["note"] == ""
    assert first["facts"] == {
        "status": "added",
        "added": 2,
        "deleted": 0,
        "size": 11,
        "markers": 1,
        "area": "code",
        "tests_changed": False,
        "lines": None,
    }
    _, summary = home.events("review.done")
    assert ending.result.value["risk"] == summary.payload["risk"] == "high"
    assert summary.payload["title"] == "repo: 2 commits, 4 files, high risk"
    assert summary.payload["text"].splitlines() == [
        "* code changed, and no test with it",
        "* 1 file of code removed",
        "* 1 TODO, FIXME or XXX added",
        "",
        "* ? `old.py` +0 -9",
        "* feature `src.py` +2 -0",
        "* docs `docs.md` +1 -0",
        "* other `a.png` added",
    ]
    assert summary.payload["kinds"] == {"?": 1, "feature": 1, "docs": 1, "other": 1}


def test_with_words_each_file_has_a_sentence(home: Home) -> None:
    """Of the model, about as many files as are wanted, in one printable line each."""
    home.repo.commit("start", src__py="1\n2\n", docs__md="x\n", more__md="x\n")
    home.fetch()
    home.run(
        "repo_review",
        lambda t: [
            read(t, "src.py"),
            finding(t, "wrong\n\x07 number " + "x" * 80),
            finding(t, "nothing to say"),
            done(t),
        ],
        words=True,
        max_files=2,
        max_reads=1,
    )
    found = {e.payload["path"]: e.payload for e in home.events("review.finding")}
    assert found["src.py"]["note"] == "wrong number …", "one printable line, cut after a whole word"
    assert found["src.py"]["facts"]["lines"] == 2
    assert (found["docs.md"]["note"], found["more.md"]["note"]) == ("nothing to say", "")
    assert (
        '{"commit":"start","files":["1 src.py +2 -0","2 docs.md +1 -0"],"tests":"unchanged"}'
        in home.log
    )
    assert '{"1":"wrong number …","next":"2 docs.md +1 -0"}' in home.log
    assert '{"2":"nothing to say","next":"done"}' in home.log


def test_turns_that_run_out_leave_files_without_a_sentence(home: Home) -> None:
    """Every file still has a finding."""
    home.repo.commit("start", **{f"f{n}__py": "x\n" * (9 - n) for n in range(4)})
    home.fetch()
    home.run("repo_review", lambda t: [finding(t), done(t)], words=True, max_files=2, turns=2)
    found = {e.payload["path"]: e.payload["note"] for e in home.events("review.finding")}
    assert found == {"f0.py": "it has no test", "f1.py": "", "f2.py": "", "f3.py": ""}


def test_what_a_repository_says_forges_no_result(home: Home) -> None:
    """Names and subjects are others' words: no line, link or title is theirs to write."""
    home.repo.write(b"x`\n# Pay\x1b[31m.py", "1\n")
    home.repo.commit("a\x1b[2J subject")
    home.fetch()
    home.run("repo_review", lambda t: [done(t)])
    (summary,) = home.events("review.done")
    assert len(summary.payload["text"].splitlines()) == 3
    assert summary.payload["text"].isprintable() or "\x1b" not in summary.payload["text"]
    assert "`x_ # Pay [31m.py`" in summary.payload["text"]


def test_a_server_without_scores_leaves_the_kind_open(home: Home) -> None:
    """A review is worth more than a label."""
    home.repo.commit("a bug less", a__py="1\n")
    home.fetch()

    def none(heads: Sequence[str], items: Sequence[str]) -> Scores:
        raise ModelMisconfigured("it cannot score")

    home.run("repo_review", lambda t: [done(t)], score=none)
    home.repo.commit("fix(parser): no loop", a__py="2\n")
    home.fetch()
    home.run("repo_review", lambda t: [done(t)], score=none)
    kinds = [event.payload["kind"] for event in home.events("review.finding")]
    assert kinds == ["?", "fix"], "a first word says it without a model"


def test_only_changed_files_are_read(home: Home) -> None:
    """Invented paths, and others of the repository or beyond, are told and never opened."""
    home.repo.commit("start", a__py="1\n")
    home.repo.write("secret.py", "hidden")
    home.fetch()
    home.run(
        "repo_review",
        lambda t: [
            *(read(t, path) for path in ("secret.py", "../../etc/passwd", "7", "")),
            finding(t),
            done(t),
        ],
        words=True,
        max_reads=9,
    )
    assert home.log.count("is not among the changed files") == 4
    assert "hidden" not in home.log


def test_the_same_finding_again_is_asked_for_in_other_words(home: Home) -> None:
    """The guard takes a repeated finding for a loop; in other words it reaches the second file."""
    home.repo.commit("start", a__py="1\n2\n", b__py="1\n")
    home.fetch()
    same = "it has no test"
    home.run(
        "repo_review",
        lambda t: [
            finding(t, same),
            finding(t, same),
            finding(t, same + "!"),
            done(t),
        ],
        words=True,
    )
    assert [e.payload["note"] for e in home.events("review.finding")] == [same, same + "!"]


def test_a_file_is_read_from_its_first_change_on(home: Home) -> None:
    """A reading starts a little above the news, and by number or the path's end as well."""
    lines = [f"line {n}" for n in range(1, 101)]
    home.repo.commit("start", **{"sub/long__py": "\n".join(lines)})
    home.fetch()
    lines[49] = "changed"
    home.repo.commit("change", **{"sub/long__py": "\n".join(lines)})
    home.fetch()
    for _ in range(2):
        home.run(
            "repo_review",
            lambda t: [
                read(t, "long.py"),
                finding(t),
                done(t),
            ],
            words=True,
            max_reads=1,
        )
    assert '"start":47,"lines":100,"text":"line 47\\nline 48\\nline 49\\nchanged' in home.log


def test_files_that_are_gone_or_binary(home: Home) -> None:
    """A deleted or binary file can be labelled; reading it is told to be impossible."""
    home.repo.commit("start", a__py="1\n", b__bin=b"\0\1")
    home.fetch()
    home.repo.git("rm", "-q", "a.py")
    home.repo.commit("gone", b__bin=b"\0\2")
    home.fetch()
    home.run(
        "repo_review",
        lambda t: [finding(t, note="a"), finding(t, note="b"), done(t)],
        words=True,
    )
    home.run(
        "repo_review",
        lambda t: [
            read(t, "1"),
            read(t, "2"),
            finding(t, note="a"),
            finding(t, note="b"),
            done(t),
        ],
        words=True,
        max_reads=2,
    )
    assert "No such file" in home.log and "is a binary file" in home.log
    assert '["1 a.py deleted","2 b.bin binary"]' in home.log
    assert [e.payload["facts"]["lines"] for e in home.events("review.finding")][-2:] == [None, None]


def test_the_mask_asks_for_a_short_sentence_and_the_parser_for_less(home: Home) -> None:
    """A masked model writes a bounded sentence; other servers' good sentences are not refused."""
    arguments = home.version("repo_review").agent.arguments["Finding"]
    note = arguments.model_json_schema()["properties"]["note"]
    assert (note["minLength"], note["maxLength"]) == (16, 60)
    assert re.fullmatch(note["pattern"], "Fixes the exception in the pager.")
    for nonsense in ("1.1.1.1.1.1.1.1.1", "Adds xt-1-1-1-1-1-1.", "the file was changed by"):
        assert not re.fullmatch(note["pattern"], nonsense)
    arguments.model_validate({"note": "div(1, 0) raises: b is never checked in line 12, see below"})


def test_a_reading_beyond_the_end_shows_the_end(home: Home) -> None:
    """A line number that a model guessed gives the last page with a visible note, not an error."""
    lines = "".join(f"line {n}\n" for n in range(1, 3001))
    home.repo.commit("start", a__py="only\n", b__py=lines, c__py="")
    home.fetch()
    home.run(
        "repo_review",
        lambda t: [
            *(read(t, path, 9999) for path in ("a.py", "b.py", "c.py")),
            *(finding(t, note=f"note {n}") for n in range(3)),
            done(t),
        ],
        words=True,
        max_reads=3,
    )
    assert '"start":1,"lines":1,"text":"...[no line 9999; from line 1 on]\\nonly"' in home.log
    assert "...[no line 9999; from line" in home.log and '"error"' not in home.log
    config = home.version("repo_review").accepted.config
    tools = Toolbox(config.permissions)
    path = str(home.repo.path / "b.py")
    page = tools.call("ReadFile", {"path": path, "start": 9999}).value
    assert page["start"] > 1 and page["text"].endswith("\nline 3000")
    assert page["text"].startswith(f"...[no line 9999; from line {page['start']} on]\nline ")


def test_a_review_resumes_with_its_findings(home: Home) -> None:
    """After a cut the agent knows what it labelled: no second finding for the same file."""
    home.repo.commit("start", a__py="1\n", b__py="1\n")
    home.fetch()
    event = home.bus.next(Lane("repo_review", False, ("repo.changed",)))
    assert event is not None
    version = home.version("repo_review", words=True)
    types = load_client(version.client_dir).types
    tools = Toolbox(version.accepted.config.permissions)
    kit = Kit("repo_review", "", tools, Memory(), types)
    agent = version.agent(version.params, kit)
    agent.begin(event, [{"note": "x", "error": "x"}, {"1": "a note", "next": "2 b.py +1 -0"}])
    result = agent.dispatch(finding(types))
    assert result.value == {"2": "it has no test", "next": "done"}
    with pytest.raises(ToolError, match="decide Done"):
        agent.dispatch(finding(types))


def test_done_comes_after_the_last_finding(home: Home) -> None:
    """The mask offers Done once every file has its finding, and then nothing else."""
    home.repo.commit("start", a__py="1\n")
    home.fetch()
    version = home.version("repo_review", words=True)
    kit = Kit("repo_review", "", Toolbox(version.accepted.config.permissions), Memory(), None)
    agent = version.agent(version.params, kit)
    (event,) = home.events("repo.changed")
    agent.begin(event, [])
    assert agent.barred() == {"Done", "ReadFile"}  # as shipped: no readings
    agent.begin(event, [{"1": "x", "next": "done"}])
    assert agent.barred() == {"ReadFile", "Finding"}


def test_a_trigger_without_a_change_ends_quietly(home: Home) -> None:
    """A person may trigger the review by hand; there is nothing to review then."""
    home.publish("agent.trigger", {}, target="repo_review")
    ending = home.run("repo_review", lambda t: [done(t)])
    assert ending.result.value["files"] == 0
    assert home.events("review.done") == []


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("feed", "ReadFeed"),
        ("mail_triage", "ReadMail"),
        ("notes", "ReadTasks"),
        ("log_watch", "ReadLog"),
        ("digest", None),
    ],
)
def test_those_of_configuration_leave_nothing_to_the_model(name: str, tool: str | None) -> None:
    """Code takes their steps and ends their sessions; the model scores at most."""
    config = load_agent(SHIPPED / "agents.d" / f"{name}.toml")
    params = params_of(config)
    assert config.agent == "task" and not params.tools and not params.words
    assert [step.tool for step in params.steps] == ([tool] if tool else [])
    assert not any(column.asked for column in params.result.values())
    assert params.skip_if == ("nothing new" if tool else None) and params.publish
    assert not config.permissions.write + config.permissions.run + config.permissions.apps
    subscribed = load_agent(SHIPPED / "agents.d" / "digest.toml").subscribe
    assert name == "digest" or params.publish in subscribed


def test_shipped_configuration_is_valid_and_asleep() -> None:
    """The examples validate as they are, start nothing, and say which lines to edit."""
    files = sorted((SHIPPED / "agents.d").glob("*.toml"))
    assert {file.stem for file in files} == set(NAMES)
    for file in files:
        config = load_agent(file)
        assert not config.enabled and config.description
        assert "To use it: set" in file.read_text()


def test_the_daemons_file_shows_every_default(tmp_path: Path) -> None:
    """config/agentd.toml names every key with its default: uncommented, it changes nothing."""
    path = SHIPPED / "agentd.toml"
    plain = load_daemon(path)
    assert plain == load_daemon(tmp_path / "none.toml")
    lines = path.read_text().splitlines()
    shown = {line[2:].split(" =")[0] for line in lines if line.startswith("# ") and " = " in line}
    tables = [getattr(plain, name) for name in type(plain).model_fields if name != "mcp"]
    ways = {"file", "ntfy", "notification", "telegram"}  # tables by themselves
    keys = {key for table in tables for key in table.model_dump()} - ways
    assert shown == keys
    assert all(f"[deliver.{way}]" in path.read_text() for way in ways)
    optional = (
        *("# url", "# api_key", "# context_window"),
        *("# cache_bytes", "# unload_after", "# quiet", "# only", "# workers"),
    )
    text = "\n".join(
        line.removeprefix("# ") if " = " in line and not line.startswith(optional) else line
        for line in lines
    )
    (tmp_path / "agentd.toml").write_text(text)
    assert load_daemon(tmp_path / "agentd.toml") == plain
