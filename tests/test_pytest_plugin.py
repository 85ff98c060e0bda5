"""The pytest plugin: which tests it keeps from the network, and which files it collects."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.recordings import recording_file as text
from tests.recorded import World, fetch

REACH = """
import socket
import threading
import urllib.request

import pytest


def reach():
    try:
        socket.create_connection(("192.0.2.1", 80), 0.01)
    except Exception as error:
        return type(error).__name__
"""
TEST = """

def test_it():
    assert reach() == "Offline"
"""
MODULES = {
    "test_import": f"import agentd.testing\n{REACH}{TEST}",
    "test_import_as": f"import os, agentd.testing.fake_server as server\n{REACH}{TEST}",
    "test_from_agentd": f"from agentd import (\n  testing,\n)\n{REACH}{TEST}",
    "test_from_below": f"from agentd.testing.waiting import WAIT_S\n{REACH}{TEST}",
    "test_some_names": f"from agentd.testing import offline, Offline\n{REACH}{TEST}",
    "test_in_function": f"{REACH}{TEST}    from agentd.testing import wait_for\n",
    "test_conftest/conftest": "import agentd.testing\n",
    "test_conftest/deep/test_below": f"{REACH}{TEST}",
    "test_fixture": f"""import agentd.testing
{REACH}
@pytest.fixture(scope="module")
def reached():
    yield reach()
    assert reach() == "Offline"

def test_it(reached):
    assert reached == "Offline"
""",
    "test_thread": f"""import agentd.testing
{REACH}
def test_it():
    found = []
    thread = threading.Thread(target=lambda: found.append(reach()))
    thread.start()
    thread.join()
    assert found == ["Offline"]
""",
    "test_marked": f"import agentd.testing\n{REACH}@pytest.mark.agentd_online{TEST}".replace(
        "==", "!="
    ),
    "test_other": f"import agentd.testing.tiny_model\n# agentd.testing\n{REACH}{TEST}".replace(
        "==", "!="
    ),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def run_pytest(folder: Path, *args: str) -> str:
    """Run pytest on a folder, from elsewhere; return what it says."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    done = subprocess.run(
        [*command, "-rA", *args, str(folder)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout


def test_whatever_uses_the_kit_reaches_nothing(tmp_path: Path) -> None:
    """By every form of import, in fixtures of every scope and in threads; and nobody else."""
    for name, module in MODULES.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(module)
    said = run_pytest(tmp_path)
    tests = [name for name in MODULES if "conftest" not in Path(name).name]
    assert f"{len(tests)} passed" in said, said


def test_run_agent_and_recordings_have_one_home(world: World, tmp_path: Path) -> None:
    """Both take the agents of pytest's root, or of the ini option, wherever pytest was started."""
    project = tmp_path / "project"
    (project / "mine" / "agents").mkdir(parents=True)
    root = Path(__file__).parents[1]
    module = (root / "agents" / "task.py").read_text()
    (project / "mine" / "agents" / "own.py").write_text(module)
    (project / "mine" / "baml_src").mkdir()
    prompt = (root / "baml_src" / "task.baml").read_text()
    (project / "mine" / "baml_src" / "own.baml").write_text(prompt)
    (project / "test_own.py").write_text(
        "from agentd.events import NewEvent\n"
        "from agentd.testing import run_agent\n"
        "def test_it():\n"
        "    config = {'params': {'instructions': 'Do it.'}}\n"
        "    event = NewEvent('note.changed', {})\n"
        "    run = run_agent('own', event, [('Done', {'result': 'x'})], config=config)\n"
        "    assert run.outcome == {'result': 'x'}, run.error\n"
    )
    assert "there is no agent `own` here" in run_pytest(project)
    assert "1 passed" in run_pytest(project, "-o", "agentd_home=mine")


def test_what_became_of_a_recording_is_no_silence(world: World, tmp_path: Path) -> None:
    """An empty, cut or converted one fails, and says why; what is none of ours is a warning."""
    written = text.write(world.take(fetch(world))[0]).encode()
    project = tmp_path / "project"
    project.mkdir()
    for name, data in {
        "good": written,
        "empty": b"",
        "ten": written[:10],
        "bom": b"\xef\xbb\xbf" + written,
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "garbage": b"\x89PNG",
    }.items():
        (project / f"{name}.recording").write_bytes(data)
    said = run_pytest(project)
    assert "4 failed, 1 passed, 1 warning" in said, said
    for name in ("empty", "ten", "bom", "lfs"):
        assert f"project/{name}.recording::replay" in said, said
    assert "begins with a byte order mark" in said and "`git lfs pull`" in said
    assert "garbage.recording is no recording of agentd" in said
