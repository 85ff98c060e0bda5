"""`agentd new` with flags or three answers: a file that is accepted as it stands, and runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.admission.admit import admit
from agentd.cli import main
from agentd.commands import new
from agentd.commands.new_task import Draft, asked, text_of
from agentd.errors import AgentdError
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.testing import run_agent
from agentd.tools.declared_tools import REGISTRY


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path / "home"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("buy milk\n")
    found = discover()
    found.create()
    return found


def answers(*given: str) -> Callable[[str], str]:
    left = list(given)
    return lambda _question: left.pop(0)


def score(head: str, item: str) -> float:
    return -len(item) + ("work" in head)


@pytest.mark.parametrize("out", ["--labels=work,private", "--rank=work,chess", ""])
def test_a_folder_by_flags(paths: Paths, tmp_path: Path, out: str) -> None:
    """The file is accepted, and a session of it publishes a result with a row for each file."""
    words = [
        "new",
        "notes",
        "--read",
        str(tmp_path / "notes"),
        "--every",
        "2h",
        *filter(None, [out]),
    ]
    assert main(words) == 0
    file = paths.agents_d / "notes.toml"
    accepted = admit("notes", paths)
    assert accepted.config.enabled and accepted.config.schedule is not None
    assert accepted.config.schedule.name == "every 2h"
    config = file.read_text()
    run = run_agent("task", NewEvent("schedule.fired"), [], config=config, scores=score)
    (result,) = run.events("notes.found")
    assert [row["file"][:4] for row in result["rows"]] == ["a.md"] and run.error is None
    assert ("kind" in result["rows"][0], "rank" in result["rows"][0]) == (
        "labels" in out,
        "rank" in out,
    )


def test_three_answers_are_enough(tmp_path: Path) -> None:
    """Beginnings of words do; what makes no sense is asked again."""
    ask = answers("x", "fol", str(tmp_path), "09:30", "", "lab", " work, private ,work,")
    draft = asked(ask)
    assert draft == Draft("folder", str(tmp_path), "09:30", "labels", ("work", "private"))
    text = text_of("notes", draft)
    assert 'schedule = { cron = "30 9 * * *" }' in text and "work" in text


@pytest.mark.parametrize("out", ["--labels=work,private", None])
def test_files_that_come(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str | None
) -> None:
    """An agent of new files labels what is in them, and is tried with one."""
    notes = tmp_path / "notes"
    words = ["new", "filer", "--watch", f"{notes}/*.md", *filter(None, [out])]
    assert main(words) == 0
    assert "agentd send-file PATH" in capsys.readouterr().out
    admit("filer", paths)
    config = (paths.agents_d / "filer.toml").read_text()
    payload = {"path": f"{notes}/a.md", "name": "a.md", "folder": str(notes)}

    def by_content(head: str, item: str) -> float:
        return float(("private" if "milk" in item else "work") in head)

    event = NewEvent("file.changed", payload)
    run = run_agent("task", event, [], config=config, scores=by_content)
    (result,) = run.events("filer.found")
    assert result["file"] == "a.md" and run.error is None
    assert result.get("kind") == ("private" if out else None)


def test_an_event_needs_no_time(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs when one is published, and labels its text."""
    assert main(["new", "sorter", "--events", "note.added", "--labels", "work,private"]) == 0
    assert """agentd send note.added '{"text": "..."}'""" in capsys.readouterr().out
    admit("sorter", paths)
    config = (paths.agents_d / "sorter.toml").read_text()
    event = NewEvent("note.added", {"text": "a meeting"})
    run = run_agent("task", event, [], config=config, scores=score)
    (result,) = run.events("sorter.found")
    assert result["text"].startswith("- said: a meeting") and result["kind"] == "work"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--read", "/no/such/folder"], 2, "there is no such folder"),
        (["--page", "example.org"], 2, "is no address of the web"),
        (["--events", "Note"], 1, "is no event type"),
        (["--events", "file.changed"], 2, "comes to who watches"),
        (["--watch", "/tmp/*", "--labels", "a,b"], 2, "watch *.pdf"),
        (["--watch", "/no/such/*.pdf"], 2, "there is no such folder"),
        (["--watch", "/tmp/*.pdf", "--every", "1h"], 2, "goes without a time"),
        (["--read", "/", "--every", "often"], 1, "schedule"),
        (["--read", "/", "--labels", "one"], 1, "needs a second label"),
        (["--read", "/", "--labels", "a,b", "--rank", "c"], 2, "not allowed with"),
        (["--events", "a.b", "--rank", "c"], 2, "there is nothing to rank"),
        (["--labels", "a,b"], 2, "say what it looks at"),
        (["--code", "--read", "/"], 2, "--code goes without them"),
        (["--read", "/", "--daily", "25:00"], 2, "is no time"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_written(
    paths: Paths, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    """One clear error, no file."""
    assert main(["new", "notes", *words]) in (code, 2, 1)
    assert told in capsys.readouterr().err
    assert list(paths.agents_d.glob("notes.toml")) == []


def test_words_are_data(tmp_path: Path) -> None:
    """Nothing that a person says ends its text in the file."""
    hostile = 'a"]\nenabled = false'
    with pytest.raises(AgentdError):
        text_of("notes", Draft("folder", str(tmp_path), "1h", "labels", (hostile, "b")))
    text = text_of("notes", Draft("folder", str(tmp_path), "1h", "ranking", ('x" = 1', "a\x7fb")))
    assert "enabled = true" in text


def test_without_flags_and_terminal_it_is_the_template(paths: Paths) -> None:
    """As scripts have it: right as it stands, and disabled."""
    assert main(["new", "reader"]) == 0
    assert "enabled = false" in (paths.agents_d / "reader.toml").read_text()
    assert new.EXAMPLES


@pytest.mark.parametrize("look", ["--feed", "--mail", "--page"])
def test_others_sources_need_their_tool(paths: Paths, look: str, tmp_path: Path) -> None:
    """Accepted where this agentd has the tool, else said."""
    where = str(tmp_path / "notes") if look == "--mail" else "https://example.org/feed.xml"
    tool = f"Read{look[2:].capitalize()}"
    code = main(["new", "news", look, where])
    assert (code == 0) is (tool in REGISTRY)
    if code == 0:
        admit("news", paths)
