"""The pytest plugin that comes with agentd: recordings as tests, and tests without a model.

It collects `*.recording` files and replays each one. The agents, also those of `run_agent`, come
from `agents/` and `baml_src/` below pytest's root folder (or the folder that the ini option
`agentd_home` names), then from those that agentd ships.

A test whose module or conftest.py imports `agentd.testing`, by whatever form and wherever in the
file, reaches through agentd no model but a fake one, and nothing beyond this machine, unless it is
marked `agentd_online`. That holds for its fixtures of every scope, and for all threads; programs
that it starts are not watched. Other tests are left alone, and nothing of agentd is imported for
them.
"""

import ast
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentd.replay.code import Workshop

SUFFIX, TITLE = ".recording", b"agentd recording"
BOM, LFS = b"\xef\xbb\xbf", b"version https://git-lfs"
HOME = "agentd_home"
ONLINE = "agentd_online"
KIT = "agentd.testing"
WEIGHTS = "agentd.testing.tiny_model"  # random ones, for the real model server: no part of the kit


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini(HOME, "folder of agents/ and baml_src/ for recordings", default=".")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", f"{ONLINE}: may reach real models and the network")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Keep fixtures of tests that use the kit from models and from the network."""
    with _kept(item):
        yield


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Keep tests that use the kit from models and from the network."""
    with _kept(item):
        yield


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Keep fixtures' ends from them, too. Reports are sent between these three, and may go out."""
    with _kept(item):
        yield


@contextmanager
def _kept(item: pytest.Item) -> Iterator[None]:
    if not _uses_kit(item):
        yield
        return
    from unittest.mock import patch

    from agentd.llm import wire
    from agentd.replay.offline import offline
    from agentd.testing import one_agent
    from agentd.testing.fake_server import RUNNING

    with ExitStack() as stack:
        stack.enter_context(patch.object(one_agent, "default_home", _home(item.config)))
        if item.get_closest_marker(ONLINE) is None:
            stack.enter_context(patch.object(wire, "only", RUNNING))
            stack.enter_context(offline(loopback=True, all_threads=True))
        yield


def _uses_kit(item: pytest.Item) -> bool:
    """Whether the test's module, or a conftest.py that it sees, imports the kit anywhere."""
    root, above = item.config.rootpath, item.path.parents
    conftests = [folder / "conftest.py" for folder in above if folder.is_relative_to(root)]
    return any(map(_imports_kit, (item.path, *conftests)))


@cache
def _imports_kit(path: Path) -> bool:
    if path.suffix != ".py" or not path.is_file():
        return False
    source = path.read_bytes()
    if b"agentd" not in source:
        return False
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # pytest says so itself
        return False
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    kit = (name for name in names if not f"{name}.".startswith(f"{WEIGHTS}."))
    return any(f"{name}.".startswith(f"{KIT}.") for name in kit)


def _home(config: pytest.Config) -> Path:
    return (config.rootpath / str(config.getini(HOME))).resolve()


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> "RecordingFile | None":
    """Collect a recording."""
    if file_path.suffix != SUFFIX:
        return None
    if not _is_ours(file_path):
        what = f"{_shown(file_path.name)} is no recording of agentd, and not replayed"
        parent.warn(pytest.PytestCollectionWarning(what))
        return None
    if str(file_path).isprintable():
        return RecordingFile.from_parent(parent, path=file_path)
    # pytest prints a test's id as it is.
    return RecordingFile.from_parent(parent, path=file_path, nodeid=_shown(file_path.name))


def _shown(name: str) -> str:
    from agentd.terminal import plain

    return plain(name)


def _is_ours(path: Path) -> bool:
    """Whether a file begins as a recording does, or is what became of one; that then fails.

    Other programs write files of that name, too.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(len(BOM + LFS)).removeprefix(BOM)
    except OSError:
        return True
    return begin.startswith((TITLE, LFS)) or TITLE.startswith(begin)  # an empty or a cut one


class RecordingFile(pytest.File):
    """A recording's file: one test."""

    def collect(self) -> Iterator["RecordingItem"]:
        """Yield the one test."""
        yield RecordingItem.from_parent(self, name="replay")


class RecordingItem(pytest.Item):
    """Replays a recording; fails where it differs."""

    def runtest(self) -> None:
        """Replay it."""
        from agentd.paths import discover
        from agentd.replay.difference import Diverged
        from agentd.replay.sources import of_file

        paths = discover({"AGENTD_HOME": str(_home(self.config))})
        workshop = _workshop(self.config)
        outcome = of_file(self.path, paths, workshop).replay(workshop)
        if outcome.difference is not None:
            raise Diverged(outcome.difference)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> str:
        """Return the difference, or the error, without a traceback of ours."""
        from agentd.errors import AgentdError
        from agentd.replay.difference import Diverged
        from agentd.terminal import plain_lines

        if isinstance(excinfo.value, Diverged | AgentdError):
            return plain_lines(str(excinfo.value))
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return how the test is called."""
        return self.path, None, f"replay of {_shown(self.path.name)}"


_KEY: "pytest.StashKey[Workshop]" = pytest.StashKey()


def _workshop(config: pytest.Config) -> "Workshop":
    """Return the one workshop of this run: prompts are compiled once."""
    from agentd.replay.code import Workshop

    if _KEY not in config.stash:
        config.stash[_KEY] = Workshop()
        config.add_cleanup(config.stash[_KEY].close)
    return config.stash[_KEY]
