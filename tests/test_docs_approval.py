"""The walk through a person's yes, on the page about agents: as it stands there, it happens."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.cli import main
from tests.pages import page
from tests.recorded import World

AGENTS = page("agents")
SECTION = AGENTS.text.split("\n## A person's yes\n")[1].split("\n## ")[0]
WRITE = {"tool": "write_file", "path": "today.md", "text": "- water the plants\n- call Ada"}
TIME = r"\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path)
    monkeypatch.setenv("AGENTD_HOME", str(world.paths.user))
    (config,) = blocks("toml")
    world.write("today", config.replace("~/notes", str(world.notes)))
    yield world
    world.close()


def ask(world: World) -> int:
    world.publish("note.changed", {"path": "a.md"}, target="today")
    return world.run("today", [WRITE])


def test_check_says_what_the_page_says(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Which decision asks, and why."""
    assert main(["check", str(world.paths.agents_d / "today.toml")]) == 0
    assert capsys.readouterr().out == blocks("text")[0]


def test_a_yes_as_on_the_page(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown so, allowed so, and then it is done."""
    session = ask(world)
    assert main(["answer"]) == 0
    masked = [re.sub(TIME, "TIME", text) for text in (capsys.readouterr().out, blocks("text")[1])]
    assert masked[0] == masked[1]
    yes, _no = blocks("sh")[0].splitlines()
    assert not (world.notes / "today.md").exists()
    assert main(yes.split()[1:]) == 0
    assert world.run("today", [{"tool": "done", "result": ""}]) == session
    assert (world.notes / "today.md").read_text() == WRITE["text"]
    assert world.sessions.archive.show(session)[0].state == "ended"


def test_a_no_as_on_the_page(world: World) -> None:
    """The model reads the reason, and nothing is done."""
    session = ask(world)
    _yes, no = blocks("sh")[0].splitlines()
    assert main(no.split()[1:]) == 0
    world.run("today", [{"tool": "done", "result": ""}])
    (told,) = re.findall(r"^`(a person said no: .*?)`", SECTION, re.MULTILINE)
    assert world.sessions.archive.show(session)[1][-2].payload["error"] == told
    assert not (world.notes / "today.md").exists()
