"""Watched folders through the daemon: started at need, shown; and files that a person sends."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.events import FILE
from tests.commandline import agentd
from tests.supervised import Daemon, daemon, wait_for


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (folder := tmp_path / "drop").mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path / "home") as one:
        yield one


def watching(folder: Path, pattern: str = "*.pdf") -> str:
    return f'watch = ["{folder}/{pattern}"]\n[permissions]\nread = ["{folder}"]\n'


def watcher_is_idle(home: Daemon) -> dict[str, object] | None:
    document: dict[str, object] | None = home.status().get("watcher")
    idle = document and document["state"] == "RUNNING" and document["beat"]["state"] == "idle"  # type: ignore[index]
    return document if idle else None


def told(home: Daemon) -> list[str]:
    return [payload["name"] for payload in home.events(FILE)]


def test_the_watcher_runs_while_something_is_watched(home: Daemon, drop: Path) -> None:
    """It comes with the first such agent, again after a kill, and goes with the last one."""
    home.drop("idler")
    home.start()
    home.wait_state("idler", "RUNNING")
    assert home.status()["watcher"] is None
    home.drop("inbox", more=watching(drop))
    first = wait_for(lambda: watcher_is_idle(home), "the watcher looks")
    assert first["agents"] == ["inbox"]
    (drop / "a.pdf").write_text("a")
    wait_for(lambda: told(home) == ["a.pdf"], "told of a.pdf")
    os.kill(first["pid"], signal.SIGKILL)
    (drop / "b.pdf").write_text("b")
    wait_for(lambda: told(home) == ["a.pdf", "b.pdf"], "told of b.pdf")
    assert home.status()["watcher"]["pid"] != first["pid"]
    (home.paths.agents_d / "inbox.toml").unlink()
    wait_for(lambda: home.status()["watcher"] is None, "nothing is watched")
    assert home.stop() == 0


def test_status_says_what_is_watched_and_what_is_wrong_with_it(home: Daemon, drop: Path) -> None:
    """In words and as JSON; what stands there is stable."""
    home.drop("inbox", more=watching(drop / "inner"))
    home.start()
    wait_for(lambda: watcher_is_idle(home), "the watcher looks")
    shown = json.loads(agentd(home.home, "status", "inbox", "--json").stdout)["triggers"]
    assert shown == {
        **{"schedule": None, "next": None, "at": [], "watch": [f"{drop}/inner/*.pdf"]},
        **{"watch_problem": f"{drop}/inner is not there", "where": {}, "batch": None},
        **{"missed": None, "later": []},
    }
    text = agentd(home.home, "status", "inbox").stdout
    assert f"{drop}/inner is not there" in text
    (drop / "inner").mkdir()
    (drop / "inner" / "a.pdf").write_text("a")
    wait_for(lambda: told(home) == ["a.pdf"], "the folder came", 90)


def test_a_person_hands_files_over(home: Daemon, drop: Path) -> None:
    """To the agents that watch such files, or to one by name; seen or not; never half of them."""
    home.drop("inbox", more=watching(drop))
    home.drop("other", more=watching(drop / "other", "*.md"))
    home.drop("idler")
    home.start()
    for name in ("inbox", "other", "idler"):
        home.wait_state(name, "RUNNING")
    file = drop / "a.pdf"
    file.write_text("a")
    sent = agentd(home.home, "send-file", str(file))
    assert sent.returncode == 0 and str(file) in sent.stdout + sent.stderr
    wait_for(lambda: watcher_is_idle(home), "the watcher looks")
    assert told(home) == ["a.pdf"]  # by the person or the watcher, and not by both
    refused = agentd(home.home, "send-file", str(file), "--to", "idler")
    assert refused.returncode == 1 and "idler may not read it" in refused.stderr
    (drop / "a.txt").write_text("a")
    refused = agentd(home.home, "send-file", str(file), str(drop / "a.txt"))
    assert refused.returncode == 1 and "no agent watches such files" in refused.stderr
    for odd, what in ((drop, "is a folder"), (drop / "none", "No such file")):
        refused = agentd(home.home, "send-file", str(odd))
        assert refused.returncode == 2 and what in refused.stderr, refused
    assert len(told(home)) == 1
    to = agentd(home.home, "send-file", str(drop / "a.txt"), "--to", "inbox")
    assert (to.returncode, to.stderr) == (0, "") and f"{drop}/a.txt to inbox" in to.stdout
