"""A notification on this Mac's screen, by `osascript`, else by `terminal-notifier`.

`osascript` shows none where it has no session with a screen, as from a LaunchAgent that was loaded
over SSH (`launchctl managername` is then Background and not Aqua, see launchctl(1)). It says so by
its exit code; -1743 is a person's no (System Settings, Notifications, Script Editor). What is shown
goes as arguments, which no script is made of; `--` ends the options: a title that begins as one
would be one more line of the script.
"""

import subprocess
import sys
from pathlib import Path

from agentd.errors import AgentdError
from agentd.terminal import cut

OSASCRIPT, LAUNCHCTL = "/usr/bin/osascript", "/bin/launchctl"
SCRIPT = """on run argv
display notification (item 2 of argv) with title (item 1 of argv)
end run"""
NOTIFIERS = (
    "/opt/homebrew/bin/terminal-notifier",
    "/usr/local/bin/terminal-notifier",
)
RUN_S = 10.0  # for a program to show it
TITLE_CHARACTERS, TEXT_CHARACTERS = 100, 240  # more is not shown
SYSTEM = sys.platform  # for tests, which have no Mac
AQUA = "Aqua"  # a session with a screen
ELSE = "install terminal-notifier (`brew install terminal-notifier`), or use [deliver.ntfy]"


def show(title: str, text: str) -> str:
    """Show it; return by which program.

    Raises:
        AgentdError: none can; says what to do.
    """
    if SYSTEM != "darwin":
        raise AgentdError(
            "only a Mac has these notifications", hint="use another table [deliver.*]"
        )
    title, text = cut(title, TITLE_CHARACTERS), cut(text, TEXT_CHARACTERS)
    why = _run([OSASCRIPT, "-e", SCRIPT, "--", title, text])
    if not why:
        return OSASCRIPT
    for notifier in filter(_is_file, NOTIFIERS):
        said = ["-title", _no_option(title), "-message", _no_option(text or " ")]
        if not _run([notifier, *said, "-group", "agentd"]):
            return notifier
    session = _session()
    if session != AQUA:
        why = f"agentd runs in a session without a screen ({session}): {why}"
    raise AgentdError(f"osascript shows no notification: {why}", hint=ELSE)


def _run(command: list[str]) -> str:
    """Run a program; return what it fails with, "" where it does not."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=RUN_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    said = done.stderr.decode("utf-8", "replace").strip().replace("\n", " ")
    return cut(said or f"exit {done.returncode}", TEXT_CHARACTERS) if done.returncode else ""


def _session() -> str:
    try:
        done = subprocess.run(
            [LAUNCHCTL, "managername"], capture_output=True, timeout=RUN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.decode("utf-8", "replace").strip() or "unknown"


def _no_option(text: str) -> str:
    """Return a text that terminal-notifier takes for one, not for an option or a list."""
    return text if text[:1].isalnum() else f"\u2060{text}"


def _is_file(path: str) -> bool:
    return Path(path).is_file()
