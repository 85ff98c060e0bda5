"""What happens only on a Mac: what it refuses, and what it has in other places. Simulated."""

import errno
import os
import re
import selectors
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentd.admission.precheck import precheck
from agentd.config.agent import Permissions
from agentd.doctor import setup
from agentd.doctor.finding import problem
from agentd.errors import ModelUnavailable, ToolError
from agentd.llm import wire
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.macos import developer_tools, privacy
from agentd.macos.folder_access import FolderAccess
from agentd.paths import discover
from agentd.tools import git, git_command
from agentd.tools.toolbox import Toolbox


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home on a Mac that keeps its Documents to itself."""
    documents = tmp_path / "Documents"
    (documents / "notes").mkdir(parents=True)
    (documents / "notes" / "a.txt").write_text("secret")
    (tmp_path / "b.txt").write_text("no secret")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    refused = {(status.st_dev, status.st_ino) for status in [documents.stat()]}
    for name in ("open", "scandir"):
        monkeypatch.setattr(os, name, _refusing(getattr(os, name), refused))
    return tmp_path


def _refusing(function: Any, refused: set[tuple[int, int]]) -> Any:
    """Refuse to open these folders and what is in them, as macOS does: EPERM."""

    def call(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            for part in (Path(path), *Path(path).parents):
                try:
                    status = os.stat(part, dir_fd=dir_fd)
                except OSError:
                    continue
                if (status.st_dev, status.st_ino) in refused:
                    raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        if dir_fd is not None:
            more["dir_fd"] = dir_fd
        return function(path, *args, **more)

    return call


@pytest.mark.parametrize("tool", ["ListFiles", "ReadFile", "SearchText", "WriteFile"])
def test_a_tool_says_that_macos_refused_and_what_to_do(
    home: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the setting and the program, which under launchd is our Python."""
    notes = str(home / "Documents" / "notes")
    tools = Toolbox(Permissions(read=(notes,), write=(notes,)))
    path = "a.txt" if tool in ("ReadFile", "WriteFile") else ""
    more = {"SearchText": {"text": "e"}, "WriteFile": {"text": "x"}}.get(tool, {})
    with pytest.raises(ToolError, match="Full Disk Access: allow the program that started"):
        tools.call(tool, {"path": path, **more})
    monkeypatch.setenv(privacy.LAUNCHD_VARIABLE, "1")
    with pytest.raises(ToolError) as refused:
        tools.call(tool, {"path": path, **more})
    assert f"allow {os.path.realpath(sys.executable)}; then `agentd restart`" in str(refused.value)


def test_a_search_says_which_folders_it_could_not_open(home: Path) -> None:
    """A search of the whole home does not pass the Documents over in silence."""
    value = Toolbox(Permissions(read=("~",))).call("SearchText", {"path": "", "text": "e"}).value
    assert value["found"] == ["b.txt:1: no secret"]
    assert value["closed"].startswith("1 folders: Operation not permitted by macOS")


def test_status_says_which_folder_needs_consent(home: Path) -> None:
    """The supervisor tries by itself, early, and the problem goes when the person has agreed."""
    paths = discover({"AGENTD_HOME": str(home / "agentd")})
    paths.agents_d.mkdir(parents=True)
    agent = paths.agents_d / "reader.toml"
    access = FolderAccess(lambda: precheck("reader", paths).folders, structlog.get_logger())
    agent.write_text('enabled = false\n[params]\nrepo = "~/Documents/notes"\n')
    access.try_now()
    assert access.problem is None
    for text in (
        '[params]\nrepo = "~/Documents/notes"\ncount = 1\n',
        '[permissions]\nread = ["~/b.txt", "~/Documents/notes/a.txt"]\n',
    ):
        agent.write_text(text)
        access.try_now()
        assert access.problem is not None
        assert access.problem["where"] == str(home / "Documents" / "notes")
        assert "Full Disk Access" in access.problem["hint"]
    agent.write_text('[permissions]\nread = ["~/b.txt"]\n')
    access.try_now()
    assert access.problem is None


def test_the_doctor_repeats_what_the_daemon_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the daemon can know: a command in a terminal has the terminal's consent."""
    refused = {"where": "/Users/x/Documents", "what": "macOS keeps", "hint": "allow it"}
    said = {"pid": 1, "model": {}, "agents": [], "refused_folder": refused}
    monkeypatch.setattr(setup, "query", lambda *_: said)
    found = list(setup.daemon(discover({"AGENTD_HOME": str(tmp_path)})))
    (told,) = [finding for finding in found if finding.name == "privacy"]
    assert told == problem("privacy", "/Users/x/Documents: macOS keeps", "allow it")


def test_git_says_that_macos_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git says only that it failed; the reason is found by looking."""
    monkeypatch.setattr(developer_tools, "empty", lambda _: False)
    with pytest.raises(ToolError, match=r"macOS keeps agentd out of .*Full Disk Access"):
        git.head(home / "Documents" / "notes")


def test_only_some_folders_are_guarded(home: Path) -> None:
    """Other refusals, such as a locked file elsewhere, are not put down to the privacy settings."""
    for name in ("Documents/x", "Library/Mobile Documents/x", "Desktop", "Library/Mail"):
        assert privacy.guarded(home / name)
    assert privacy.guarded(Path("/Volumes/stick/x"))
    for name in ("code", "Library/Application Support/agentd/run", "Library/Logs/agentd", ""):
        assert not privacy.guarded(home / name)
    locked = PermissionError(errno.EPERM, "Operation not permitted")
    assert privacy.described(home / "code", locked) == "Operation not permitted"
    mode = PermissionError(errno.EACCES, "Permission denied")
    assert privacy.described(home / "Documents", mode) == "Permission denied"


def test_a_framework_build_is_allowed_by_its_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Homebrew's python3 only starts the Python.app beside it, which is what macOS asks for."""
    version = tmp_path / "Python.framework" / "Versions" / "3.12"
    (version / "bin").mkdir(parents=True)
    (version / "Resources" / "Python.app").mkdir(parents=True)
    (version / "bin" / "python3.12").touch()
    monkeypatch.setattr(sys, "executable", str(version / "bin" / "python3.12"))
    app = os.path.realpath(version / "Resources" / "Python.app")
    assert privacy.program({privacy.LAUNCHD_VARIABLE: "1"}) == app


def test_a_search_does_not_fetch_a_cloud(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of iCloud Drive that are not on this Mac are left out of searches, and counted."""
    monkeypatch.setattr(privacy, "not_downloaded", lambda status: status.st_size == 9)
    tools = Toolbox(Permissions(read=(str(home / "b.txt"),)))
    value = tools.call("SearchText", {"path": "", "text": "e"}).value
    assert (value["found"], value["skipped"]) == ([], 1)
    assert "secret" in tools.call("ReadFile", {"path": str(home / "b.txt")}).value["text"]


def test_the_stand_in_of_a_missing_git_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would open a dialog at every look; another git is taken, or the error says what to do."""
    apple, brew, tools = (tmp_path / name for name in ("usr", "brew", "tools"))
    for folder in (apple, brew, tools / "usr" / "bin"):
        folder.mkdir(parents=True)
    for program in (apple / "git", brew / "git"):
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(developer_tools, "DEVELOPER_FOLDERS", (tmp_path / "none", tools))
    monkeypatch.setattr(developer_tools, "SHIMS", {str(apple / "git")})
    assert developer_tools.which("git", f"{apple}:{brew}") == str(brew / "git")
    assert developer_tools.which("git", str(apple)) is None
    monkeypatch.setattr(git_command, "PROGRAM_PATH", str(apple))
    with pytest.raises(ToolError, match="git is not installed"):
        git.head(tmp_path)
    (tools / "usr" / "bin" / "git").touch()  # the tools are there
    assert developer_tools.which("git", f"{apple}:{brew}") == str(apple / "git")


def test_a_mac_that_wakes_does_not_end_running_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is over early, by a clock that went on in the Mac's sleep, is no deadline."""
    waits: list[float | None] = []
    select = selectors.DefaultSelector.select

    def woken(selector: Any, timeout: float | None = None) -> Any:
        waits.append(timeout)
        return [] if len(waits) < 4 else select(selector, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", woken)
    result = Toolbox(Permissions(run=("echo",))).call("RunCommand", {"program": "echo", "args": []})
    assert result.value["exit"] == 0
    assert len(waits) >= 4 and None not in waits


def test_a_refused_local_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a service macOS says "No route to host" where a terminal's programs are let through."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(wire, "only", None)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv(privacy.LAUNCHD_VARIABLE, "1")
    said = f"Local Network: allow {os.path.realpath(sys.executable)}"
    with pytest.raises(ToolError, match=re.escape(said)):
        Toolbox(Permissions(net=("192.168.1.20",))).call("HttpGet", {"url": "http://192.168.1.20/"})
    address = Address("http://192.168.1.20:1234/v1", "m", "")
    endpoint = Endpoint(lambda: address, own=False, queue_wait_s=0.01)
    with pytest.raises(ModelUnavailable) as refused:
        endpoint.tokenize({})
    assert said in refused.value.hint
