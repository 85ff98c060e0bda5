"""The commands that drive launchd, with a launchctl that acts as launchd does."""

import contextlib
import json
import os
import plistlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.commands import service
from agentd.macos.launchctl import LABEL
from agentd.paths import discover
from agentd.testing import wait_for
from tests.commandline import DEADLINE_S, agentd
from tests.fake_launchctl import FOLDER_VARIABLE, LETS_GO, REFUSES

FAKE = Path(__file__).with_name("fake_launchctl.py")


class Mac:
    """A home and a PATH in which there is launchd."""

    def __init__(self, root: Path) -> None:
        self.home, self.user, self.folder = root / "agentd", root / "user", root / "launchd"
        for folder in (self.home / "config", self.user, self.folder, root / "bin"):
            folder.mkdir(parents=True)
        (self.home / "config" / "agentd.toml").write_text(
            '[model]\nurl = "http://127.0.0.1:9/v1"\n'
        )
        program = root / "bin" / "launchctl"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
        program.chmod(0o755)
        self.environ = {
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.user),
            FOLDER_VARIABLE: str(self.folder),
        }
        self.plist = self.user / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def agentd(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return agentd(self.home, *words, **self.environ)

    def pid(self) -> int | None:
        """The daemon's pid, None where none answers."""
        document = json.loads(self.agentd("status", "--json").stdout)
        return int(document["pid"]) if document["answers"] else None

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def end(self) -> None:
        path = self.folder / "state.json"
        if path.exists():
            with contextlib.suppress(KeyError, ProcessLookupError):
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
        # Who is killed leaves its sockets.
        shutil.rmtree(discover({"AGENTD_HOME": str(self.home)}).sockets, ignore_errors=True)


@pytest.fixture
def mac(tmp_path: Path) -> Iterator[Mac]:
    mac = Mac(tmp_path)
    yield mac
    mac.end()


def test_the_whole_life_of_a_service(mac: Mac) -> None:
    """Install, stop, start, restart, uninstall: each does it, waits for it, and says so."""
    done = mac.agentd("install")
    assert done.returncode == 0, done.stderr
    first = mac.pid()
    assert first is not None and f"pid {first}" in done.stdout
    job = plistlib.loads(mac.plist.read_bytes())
    assert job["EnvironmentVariables"]["AGENTD_HOME"] == str(mac.home)

    again = mac.agentd("start")
    assert again.returncode == 0 and f"runs already, pid {first}" in again.stdout
    assert mac.pid() == first

    assert mac.agentd("stop").returncode == 0
    assert mac.pid() is None and mac.plist.exists()
    assert mac.agentd("stop").returncode == 0, "nothing to do is no failure"

    assert mac.agentd("start").returncode == 0
    second = mac.pid()
    assert second not in (None, first)

    mac.calls()
    assert mac.agentd("restart").returncode == 0
    assert mac.pid() not in (None, second)
    assert ["kickstart", "-k", f"gui/{os.getuid()}/{LABEL}"] in mac.calls()

    gone = mac.agentd("uninstall")
    assert gone.returncode == 0 and "uninstalled" in gone.stdout
    assert mac.pid() is None and not mac.plist.exists()
    assert mac.agentd("uninstall").returncode == 0
    assert (mac.home / "agentd.db").exists(), "files and database stay"


def test_installing_again_waits_until_launchd_lets_go(mac: Mac) -> None:
    """`bootout` returns early, and `bootstrap` then fails with 5: both are waited for."""
    assert mac.agentd("install").returncode == 0
    first = mac.pid()
    mac.calls()
    done = mac.agentd("install")
    assert done.returncode == 0, done.stderr
    assert mac.pid() not in (None, first)
    words = [call[0] for call in mac.calls()]
    after = words[words.index("bootout") + 1 :]
    assert after.count("bootstrap") == REFUSES + 1
    assert after[: LETS_GO + 1] == ["print"] * (LETS_GO + 1), "first it is gone"


def test_a_service_that_is_not_loaded_is_bootstrapped(mac: Mac) -> None:
    """`kickstart` does not know it: after a logout, or when a person booted it out."""
    assert mac.agentd("install").returncode == 0
    (mac.folder / "state.json").unlink()
    os.kill(mac.pid() or 0, signal.SIGKILL)
    assert mac.agentd("restart").returncode == 0
    assert mac.pid() is not None


def test_a_service_that_was_disabled_is_enabled(mac: Mac) -> None:
    """Else launchd refuses to load it, with an error that says nothing."""
    (mac.folder / "state.json").write_text(json.dumps({"disabled": True}))
    done = mac.agentd("install")
    assert done.returncode == 0, done.stderr
    assert mac.pid() is not None


def test_what_is_not_installed_cannot_be_started(mac: Mac) -> None:
    """One error that says how."""
    for word in ("start", "stop", "restart"):
        done = mac.agentd(word)
        assert done.returncode == 2
        assert "agentd install" in done.stderr and "Traceback" not in done.stderr


def test_a_daemon_that_gives_up_is_told(mac: Mac) -> None:
    """launchd starts it, and says nothing of how it ends: the reason comes from the daemon."""
    (mac.home / "config" / "agentd.toml").write_text("[modle]\n")
    done = mac.agentd("install")
    assert done.returncode == 1
    assert "modle" in done.stderr and "Traceback" not in done.stderr


def test_a_daemon_started_by_hand_is_left_alone(mac: Mac) -> None:
    """`install` would only start a second one, which is refused."""
    environment = {**os.environ, **mac.environ, "AGENTD_HOME": str(mac.home)}
    with subprocess.Popen([sys.executable, "-m", "agentd", "run"], env=environment) as process:
        try:
            wait_for(lambda: mac.pid() == process.pid, seconds=DEADLINE_S)
            done = mac.agentd("install")
            assert done.returncode == 1 and str(process.pid) in done.stderr
            assert "by hand" in done.stderr
        finally:
            process.terminate()


def test_doctor_looks_at_the_launch_agent(mac: Mac) -> None:
    """Not there, as it should be, from another place."""

    def said() -> str:
        findings = json.loads(mac.agentd("doctor", "--json").stdout)["findings"]
        return " ".join(f"{f['level']} {f['what']}" for f in findings if f["name"] == "launchd")

    assert said().startswith("ok is not set up")
    assert mac.agentd("install").returncode == 0
    assert said().startswith("ok starts agentd at login")
    mac.plist.write_text(mac.plist.read_text().replace(str(mac.home), "/elsewhere"))
    assert said().startswith("warning") and "another" in said()


def test_a_place_that_services_cannot_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a checkout in Documents launchd's Python cannot even start, and nothing says so."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = discover({"AGENTD_HOME": str(tmp_path / "agentd")})
    service._warn_if_guarded(paths)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "Documents" / "agentd" / ".venv"))
    service._warn_if_guarded(paths)
    said = capsys.readouterr().err
    assert "Documents/agentd/.venv: macOS keeps services out" in said
    assert f"allow {os.path.realpath(sys.executable)}" in said


def test_without_launchd_there_is_one_error(tmp_path: Path) -> None:
    """It says what to do instead, on Linux by systemd."""
    empty = tmp_path / "bin"
    empty.mkdir()
    for word in ("install", "start", "stop", "restart", "uninstall"):
        done = agentd(tmp_path, word, PATH=str(empty))
        assert done.returncode == 1
        assert "agentd run" in done.stderr and "systemd-run --user" in done.stderr
        assert "Traceback" not in done.stderr
