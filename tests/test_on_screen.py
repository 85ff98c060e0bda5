"""Notifications of macOS, by documented rules and stand-ins for its programs."""

from pathlib import Path

import pytest

from agentd.errors import AgentdError
from agentd.macos import on_screen

ECHO = '#!/bin/sh\nfor part in "$@"; do printf "%s\\n--\\n" "$part"; done > "$0.said"\n'


def program(path: Path, does: str = "exit 0") -> str:
    path.write_text(f"{ECHO}{does}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Mac's programs, which can be replaced."""
    monkeypatch.setattr(on_screen, "SYSTEM", "darwin")
    monkeypatch.setattr(on_screen, "OSASCRIPT", program(tmp_path / "osascript"))
    monkeypatch.setattr(on_screen, "LAUNCHCTL", program(tmp_path / "launchctl", "echo Aqua"))
    monkeypatch.setattr(on_screen, "NOTIFIERS", (str(tmp_path / "terminal-notifier"),))
    return tmp_path


def said(path: Path) -> list[str]:
    return (path.with_name(path.name + ".said")).read_text().split("\n--\n")[:-1]


def test_what_is_shown_goes_as_arguments_of_a_fixed_script(mac: Path) -> None:
    """No text of others becomes part of a script."""
    title = 'x" & (do shell script "touch /tmp/y") & "'
    assert on_screen.show(title, "-e text\nmore") == str(mac / "osascript")
    assert said(mac / "osascript") == ["-e", on_screen.SCRIPT, "--", title, "-e text\nmore"]
    option = '-eproperty x : (do shell script "touch /tmp/y")'
    on_screen.show(option, "-e")
    assert said(mac / "osascript")[2:] == ["--", option, "-e"]
    on_screen.show("t" * 999, "x" * 9999)
    assert all(len(part) < 300 for part in said(mac / "osascript"))


def test_the_other_program_where_osascript_shows_none(mac: Path) -> None:
    """And what begins like an option is a text to it."""
    program(mac / "osascript", "echo 'execution error: (-1743)' >&2; exit 1")
    notifier = program(mac / "terminal-notifier")
    assert on_screen.show("-remove", "[x]") == notifier
    words = said(Path(notifier))
    assert words[0::2] == ["-title", "-message", "-group"]
    assert not words[1].startswith("-") and not words[3].startswith("[")


def test_where_none_shows_it_says_why_and_what_to_do(mac: Path) -> None:
    program(mac / "osascript", "echo 'execution error: not allowed (-1743)' >&2; exit 1")
    with pytest.raises(AgentdError) as raised:
        on_screen.show("a", "b")
    assert raised.value.what.endswith("shows no notification: execution error: not allowed (-1743)")
    assert "brew install terminal-notifier" in raised.value.hint
    (mac / "launchctl").write_text("#!/bin/sh\necho Background\n")
    with pytest.raises(AgentdError, match=r"session without a screen \(Background\)"):
        on_screen.show("a", "b")


def test_a_program_that_hangs_or_is_gone(mac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_screen, "RUN_S", 0.2)
    program(mac / "osascript", "exec sleep 60")
    with pytest.raises(AgentdError, match="TimeoutExpired"):
        on_screen.show("a", "b")
    (mac / "osascript").unlink()
    with pytest.raises(AgentdError, match="FileNotFoundError"):
        on_screen.show("a", "b")


def test_elsewhere_it_says_that_this_is_no_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_screen, "SYSTEM", "linux")
    with pytest.raises(AgentdError, match="only a Mac"):
        on_screen.show("a", "b")
