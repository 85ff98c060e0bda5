"""A turn beside other libraries: sides that need nothing installed, and one that is not there."""

from collections.abc import Iterator

import pytest

from tests.bench.environments import NotHere, python_with
from tests.bench.home import Home
from tests.bench.peers import beside
from tests.bench.peers.beside import Peer


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    home.close()


def test_all_sides_do_the_same_task(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks eight times a session, or the side ends; agentd's figure stands beside each."""
    bare = Peer("bare", "run_bare", (), "in memory")
    openai = Peer("openai", "run_openai", (), "in memory")  # a development dependency as well
    monkeypatch.setattr(beside, "PEERS", (bare, openai))
    figures = list(beside.measure(True, home))
    assert [figure.name for figure in figures] == [
        "peers: a turn beside bare",
        "peers: a turn beside openai",
    ]
    for figure in figures:
        assert figure.ours > 0 and figure.baseline is not None and figure.note == "in memory"
    least, common = (figure.baseline for figure in figures)
    assert least and common and least < common


def test_what_does_not_run_here_says_why(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not there takes its own row's figure, not the table."""
    monkeypatch.setattr(beside, "PEERS", (Peer("other", "run_smolagents", (), "in memory"),))
    (only,) = beside.measure(True, home)
    assert only.ours > 0 and only.baseline is None
    assert only.note == "it does not run here: ModuleNotFoundError: No module named 'smolagents'"


def test_an_environment_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half made is taken for whole the next time."""
    monkeypatch.setenv("PATH", "")
    for _ in range(2):
        with pytest.raises(NotHere, match="no uv"):
            python_with("no-such-package==1.0")
