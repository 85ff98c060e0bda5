"""An accepted version that somebody removed or changed is built again, without a person."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commandline import agentd
from tests.livehome import a_home


def changed(folder: Path) -> None:
    with (folder / "agent.py").open("a") as file:
        file.write("# one more line\n")


BREAKS: dict[str, Callable[[Path], object]] = {
    "all moved away": lambda folder: folder.parents[1].rename(folder.parents[2] / "away"),
    "removed": shutil.rmtree,
    "module changed": changed,
    "client removed": lambda folder: shutil.rmtree(folder / "baml_client"),
    "manifest emptied": lambda folder: (folder / "manifest.json").write_text(""),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_version_is_built_again(tmp_path: Path, what: str) -> None:
    """Whether its worker has to start anew, or meets it at its first event."""
    with a_home(tmp_path / "home") as home:
        home.start()
        agent = home.agent()
        folder = home.paths.versions / "hello" / agent["version"]
        BREAKS[what](folder)
        os.kill(agent["pid"], signal.SIGKILL)
        sent = int(home.send().stdout.split()[1])
        home.until(lambda: home.answered() == [sent], "it is answered")
        home.until(lambda: home.agent().get("state") == "RUNNING", "it runs")
        assert home.agent()["version"] == agent["version"]
        home.stop()


@pytest.mark.parametrize("words", [("resume", "hello"), ("reload", "hello"), ("reload",), ()])
def test_every_remedy_helps(tmp_path: Path, words: tuple[str, ...]) -> None:
    """An event that meets it parks the agent for a moment; a command may come at any time."""
    with a_home(tmp_path / "home") as home:
        home.start()
        shutil.rmtree(home.paths.versions / "hello")
        sent = int(home.send().stdout.split()[1])
        if words:
            agentd(home.root, *words)
        home.until(lambda: home.answered() == [sent], "it is answered")
        home.stop()


def test_what_cannot_be_built_rests(tmp_path: Path) -> None:
    """Its file is wrong by now: it says so, and is not tried over and over."""
    with a_home(tmp_path / "home") as home:
        home.start()
        pid = home.agent()["pid"]
        (home.paths.agents_d / "hello.toml").write_text("agent = ")
        home.until(lambda: home.agent().get("problem"), "its file is refused")
        shutil.rmtree(home.paths.versions / "hello")
        os.kill(pid, signal.SIGKILL)
        home.until(lambda: home.agent().get("state") == "PARKED", "it rests")
        assert "hello.toml" in home.agent()["problem"]["where"]
        home.stop()
