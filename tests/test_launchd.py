"""The LaunchAgent: legal keys and types, and what it says, carried out by launchd's rules."""

import contextlib
import os
import plistlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import AlreadyRunning, ConfigError, NotRunning, StorageError
from agentd.macos import launchd
from agentd.paths import discover, shipped
from agentd.supervisor import supervisor
from agentd.supervisor.client import query
from tests.supervised import QUICK, Daemon, wait_for

SAMPLE = shipped() / "launchd" / "local.agentd.plist"

# launchd.plist(5): the keys that we use and their types. plistutil accepts misspelt ones.
KEYS: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "WorkingDirectory": str,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "SoftResourceLimits": dict,
    "Umask": int,
    "MaterializeDatalessFiles": bool,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}
PROCESS_TYPES = {"Background", "Standard", "Adaptive", "Interactive"}


def check(job: dict[str, Any]) -> None:
    """Hold a plist to launchd.plist(5)."""
    assert job.keys() == KEYS.keys()
    for key, value in job.items():
        assert type(value) is KEYS[key], key
    assert all(type(item) is str for item in job["ProgramArguments"])
    assert all(type(item) is str for item in job["EnvironmentVariables"].values())
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["SoftResourceLimits"].keys() == {"NumberOfFiles"}
    assert type(job["SoftResourceLimits"]["NumberOfFiles"]) is int
    assert job["ProcessType"] in PROCESS_TYPES
    assert job["MaterializeDatalessFiles"] is True  # else files of iCloud Drive cannot be read
    # launchd knows neither our PATH nor our folder.
    for path in (job["ProgramArguments"][0], job["WorkingDirectory"]):
        assert Path(path).is_absolute()
    assert job["StandardOutPath"] == job["StandardErrorPath"] == "/dev/null"
    assert "/opt/homebrew/bin" in job["EnvironmentVariables"]["PATH"].split(":")


def test_the_shipped_sample_is_what_the_code_renders() -> None:
    """The sample in launchd/ cannot fall behind the code."""
    assert SAMPLE.read_text() == launchd.sample()
    check(plistlib.loads(SAMPLE.read_bytes()))


def test_a_rendered_plist_is_legal_and_carries_the_home(tmp_path: Path) -> None:
    """Keys and types as documented; AGENTD_HOME travels along; nothing secret does."""
    environment = {"AGENTD_HOME": str(tmp_path), "HF_TOKEN": "hunter2"}
    text = launchd.render(discover(environment), launchd.program(), environment)
    job = plistlib.loads(text.encode())
    check(job)
    assert job["EnvironmentVariables"]["AGENTD_HOME"] == str(tmp_path)
    assert "hunter2" not in text


def test_paths_with_spaces_and_markup_survive(tmp_path: Path) -> None:
    """A home such as "Tom & Jerry <3" is escaped by plistlib, not by us."""
    home = tmp_path / "Tom & Jerry <3"
    environment = {"AGENTD_HOME": str(home)}
    job = plistlib.loads(
        launchd.render(discover(environment), launchd.program(), environment).encode()
    )
    assert job["EnvironmentVariables"]["AGENTD_HOME"] == str(home)


def test_relative_programs_are_refused() -> None:
    """launchd would start nothing and say so nowhere."""
    with pytest.raises(ValueError, match="absolute"):
        launchd.job(["agentd", "run"], home=None, user_home=Path("/Users/YOU"))


def test_launchds_patience_is_longer_than_our_stop() -> None:
    """After ExitTimeOut launchd kills the supervisor alone."""
    ours = supervisor.WORKERS_STOP_S + supervisor.MODEL_STOP_S + supervisor.RECORDS_STOP_S
    ours += 2 * supervisor.KILLED_S
    assert ours < 10 < launchd.EXIT_TIMEOUT_S


def test_exit_codes_under_launchd() -> None:
    """launchd restarts everything but 0: so what stays wrong exits 0, and what passes does not."""
    assert launchd.exit_code(ConfigError("x")) == 0
    assert launchd.exit_code(AlreadyRunning("x")) == 0
    assert launchd.exit_code(StorageError("x")) == 75


class Launchd:
    """Does with a plist what launchd is documented to do, without waiting between starts."""

    def __init__(self, text: str) -> None:
        self.job = plistlib.loads(text.encode())

    def start(self) -> "subprocess.Popen[bytes]":
        with open(self.job["StandardOutPath"], "wb") as output:  # noqa: PTH123 - as launchd does
            return subprocess.Popen(
                self.job["ProgramArguments"],
                # The plist's variables, and those few that launchd itself gives.
                env={"HOME": str(Path.home()), **self.job["EnvironmentVariables"]},
                cwd=self.job["WorkingDirectory"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                umask=self.job["Umask"],
                start_new_session=True,
            )

    def starts_again(self, code: int) -> bool:
        """KeepAlive = {SuccessfulExit: false}: again after any exit but 0."""
        return code != 0 and self.job["KeepAlive"]["SuccessfulExit"] is False


@pytest.fixture
def home(tmp_path: Path) -> Daemon:
    one = Daemon(tmp_path)
    one.configure(QUICK)
    return one


def agent(home: Daemon) -> Launchd:
    environment = {"AGENTD_HOME": str(home.home)}
    return Launchd(launchd.render(home.paths, launchd.program(), environment))


def ended(process: "subprocess.Popen[bytes]") -> int:
    return process.wait(timeout=20)


def test_it_starts_and_stops_as_launchd_does_it(home: Daemon) -> None:
    """The real command from the plist: it comes up, SIGTERM ends it with 0, nothing restarts it."""
    service = agent(home)
    process = service.start()
    try:
        wait_for(lambda: _pid(home) == process.pid, "it comes up")
        second = service.start()
        assert ended(second) == 0, "already running: not a failure to be repeated"
        assert query(home.paths)["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=service.job["ExitTimeOut"])
        assert not service.starts_again(code)
    finally:
        process.kill()
        process.wait()


def test_a_crash_is_started_again(home: Daemon) -> None:
    """Killed by a signal is no successful exit; the next start takes over what is left."""
    service = agent(home)
    process = service.start()
    wait_for(lambda: home.paths.status_socket.exists(), "it comes up")
    process.kill()
    assert service.starts_again(ended(process))
    process = service.start()
    try:
        wait_for(lambda: _pid(home) == process.pid, "it comes up again")
        process.send_signal(signal.SIGTERM)
        assert ended(process) == 0
    finally:
        process.kill()
        process.wait()


def test_a_wrong_configuration_is_recorded_and_not_repeated(home: Daemon) -> None:
    """Exit 78 would be tried again every ten seconds for ever: it is logged, and exits 0."""
    home.configure("[modle]\n")
    service = agent(home)
    assert not service.starts_again(ended(service.start()))
    (line,) = home.log("supervisor.failed")
    assert "modle: unknown key" in line["what"]
    assert line["where"] == str(home.paths.daemon_file)


def test_the_same_mistake_in_a_terminal_exits_78(home: Daemon) -> None:
    """Without launchd the code says what it is."""
    home.configure("[modle]\n")
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "run"],
        env={**os.environ, "AGENTD_HOME": str(home.home)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 78
    assert "modle: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def _pid(home: Daemon) -> int | None:
    with contextlib.suppress(NotRunning):
        return int(query(home.paths)["pid"])
    return None
