"""What cleaners of temporary folders take from a living daemon comes back, whoever owns it."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.clock import SystemClock
from agentd.doctor import examine
from agentd.errors import NotRunning
from agentd.paths import Paths
from agentd.process.lock import LockFile
from agentd.supervisor.client import query
from tests.livehome import a_home
from tests.supervised import Daemon, daemon, suspend, wait_for


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as one:
        yield one


def replace(path: Path) -> None:
    path.unlink()
    path.touch()


def remove(folder: Path) -> None:
    """Remove a folder at one stroke: nobody makes something in it again meanwhile."""
    away = folder.with_name(f"{folder.name}.away")
    folder.rename(away)
    shutil.rmtree(away)


REMOVALS: dict[str, Callable[[Paths], object]] = {
    "status socket": lambda paths: paths.status_socket.unlink(),
    "wake-up sockets": lambda paths: remove(paths.wake),
    "lock": lambda paths: paths.lock.unlink(),
    "token": lambda paths: paths.token.unlink(),
    "address": lambda paths: paths.model_address.unlink(),
    "run folder": lambda paths: remove(paths.run),
    "moved run folder": lambda paths: paths.run.rename(paths.data / "away"),
    "replaced socket": lambda paths: replace(paths.status_socket),
}


@pytest.mark.parametrize("what", REMOVALS)
def test_what_is_removed_comes_back(supervisor: Daemon, what: str) -> None:
    """With the same token, which server and workers have; and the home is still taken."""
    supervisor.configure("[model]\nurl = 'http://127.0.0.1:9/v1'\n")
    supervisor.start()
    paths = supervisor.paths
    kept = {path: path.read_text() for path in (paths.token, paths.model_address)}
    REMOVALS[what](paths)
    wait_for(
        lambda: (
            all(path.exists() for path in (*kept, paths.wake / "agentd.sock", paths.locks))
            and LockFile(paths.lock).held()
        ),
        "all is there again",
    )
    wait_for(lambda: supervisor.status().get("pid") == supervisor.pid, "it answers")
    assert {path: path.read_text() for path in kept} == kept
    assert [path.stat().st_mode & 0o077 for path in (paths.run, paths.token, paths.lock)] == [0] * 3
    second = Daemon(supervisor.home)
    second.start(wait=False)
    assert second.process is not None
    _, errors = second.process.communicate(timeout=20)
    assert f"another supervisor is running (pid {supervisor.pid})" in errors
    supervisor.drop("new")
    supervisor.wait_state("new", "RUNNING")
    assert supervisor.stop() == 0


def test_a_lock_that_another_has_taken_stops_the_supervisor(supervisor: Daemon) -> None:
    """Two in one home would do everything twice."""
    supervisor.start()
    other = LockFile(supervisor.paths.lock.with_name("other"))
    assert other.acquire()
    other.path.replace(supervisor.paths.lock)
    assert supervisor.process is not None
    _, error = supervisor.process.communicate(timeout=20)
    assert supervisor.process.returncode == 75
    assert "another supervisor has taken its place" in error and "Traceback" not in error
    other.close()


def test_a_worker_hears_again(tmp_path: Path) -> None:
    """Its own socket comes back, though it waits for nothing but a wake-up; no event waits long."""
    with a_home(tmp_path) as home:
        home.start()
        remove(home.paths.wake)
        socket = home.paths.wake / "hello.sock"
        home.until(socket.exists, "the worker's socket is there")
        home.send()
        home.until(lambda: len(home.answered()) == 1, "it answers")


def test_the_doctor_looks(supervisor: Daemon) -> None:
    """It says that a daemon runs which nobody can reach, and which consumer cannot be woken."""
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    # A fake worker has no socket of its own.
    found = {f.name: f for f in examine(supervisor.paths, SystemClock())}
    assert found["daemon"].level == "ok"
    assert "one" in found["wake-up"].what and found["wake-up"].level == "warning"
    suspend(supervisor.pid)
    supervisor.paths.status_socket.unlink()
    try:
        found = {f.name: f for f in examine(supervisor.paths, SystemClock())}
        assert found["daemon"].level == "problem"
        assert f"pid {supervisor.pid}" in found["daemon"].what
        with pytest.raises(NotRunning, match=f"runs, pid {supervisor.pid}, and does not answer"):
            query(supervisor.paths)
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)


def test_a_clean_stop_removes_sockets_that_lie_elsewhere(tmp_path: Path) -> None:
    """Else each home that was ever used leaves a folder in /tmp for ever; also a failed start."""
    with daemon(tmp_path / ("deep" * 25)) as one:
        one.drop("one")
        one.start()
        one.wait_state("one", "RUNNING")
        assert one.paths.sockets.parent == Path("/tmp")
        assert one.stop() == 0
        assert not one.paths.sockets.exists()
        one.start(wait=False)
        second = Daemon(one.home)
        wait_for(lambda: one.status(), "it runs")
        second.start(wait=False)
        assert second.process is not None
        second.process.communicate(timeout=20)
        assert one.status()["pid"] == one.pid, "who did not get the home takes nothing away"
        one.stop()
        folder = one.paths.database.parent
        assert list(folder.iterdir()) == [one.paths.database], "its log is written back"
        one.paths.database.write_bytes(b"no database" * 1000)
        one.start(wait=False)
        assert one.process is not None
        one.process.communicate(timeout=20)
        assert one.process.returncode == 78
        assert not one.paths.sockets.exists()


def test_what_is_not_ours_stays_in_the_folder_of_sockets(tmp_path: Path) -> None:
    """Somebody may have put a file there."""
    with daemon(tmp_path / ("deep" * 25)) as one:
        one.start()
        theirs = one.paths.sockets / "theirs"
        theirs.touch()
        assert one.stop() == 0
        assert list(one.paths.sockets.iterdir()) == [theirs]
        shutil.rmtree(one.paths.sockets)
