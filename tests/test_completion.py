"""`agentd completion`: what may come after some words, in the shells themselves."""

import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentd import cli
from agentd.commands.completion import SCRIPTS, candidates
from tests.commandline import agentd, write_agent

TYPED_S = 30.0  # for a shell to answer on a busy machine


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two agents, and files that a shell should not read."""
    for name in ("feed", "folder", "f$(rm)", "fe\x1b[2J", "f g"):
        write_agent(tmp_path, name)  # the last ones are files that are no agent's
    return tmp_path


def words(home: Path, *typed: str) -> list[str]:
    """Return what may stand in the place of the last word, without what is said of it."""
    done = agentd(home, "completion", "words", "--", *typed)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["ev"], ["events", "eval"]),
        (["events", "--s"], ["--since-id", "--since"]),
        (["events", "--json", "--j"], []),
        (["sessions", "--state", "f"], ["failed"]),
        (["sessions", "--state=f"], ["--state=failed"]),
        (["sessions", "--state", "=", "f"], ["failed"]),
        (["dead", "re"], ["retry"]),
        (["dead", "retry", "3", ""], []),
        (["pause", "fo"], ["folder"]),
        (["logs", "feed", "fe"], ["feed"]),
        (["events", "--agent", "f"], ["feed", "folder"]),
        (["results", "fo"], ["folder"]),
        (["ask", "fo"], ["folder"]),
        (["send-file", "--to", "fo"], ["folder"]),
        (["send-file", ""], [":files"]),
        (["record", "7", "-o", ""], [":files"]),
        (["new", "f"], []),
        (["model", "rm", ""], ["smollm2-135m"]),
        (["completion", "w"], []),
        (["unknown", ""], []),
        (["events", "--", ""], []),
    ],
)
def test_what_may_come(home: Path, typed: list[str], found: list[str]) -> None:
    """Commands, options not used yet, choices, agents, or a path: what the command line wants."""
    assert sorted(words(home, *typed)) == sorted(found)


def test_an_option_is_told_by_its_own_words(home: Path) -> None:
    """And not by the word of which action it is."""
    told = agentd(home, "completion", "words", "--", "sessions", "--state").stdout
    assert told == "--state\tonly those in this state\n"


def test_all_commands_and_their_options(home: Path) -> None:
    """Nothing is listed by hand: each command comes, and each option of its own table."""
    assert words(home, "") == words(home) == [command.name for command in cli.COMMANDS]
    for command in cli.COMMANDS:
        found = [
            word for word, _ in candidates([command.name, "-"], {command.name: ""}, cli.parser_of)
        ]
        usage = cli.parser_of(command.name).format_usage()
        assert {"-h", "--help"} <= {*found}
        assert all(option in found for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage))


@contextmanager
def shell(home: Path, argv: list[str]) -> Iterator[int]:
    """Start a shell at a terminal of its own, where `agentd` is this one."""
    pid, fd = pty.fork()
    if pid == 0:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {"PATH": path, "HOME": str(home), "AGENTD_HOME": str(home), "TERM": "dumb"}
        os.execvpe(argv[0], argv, {**environ, "PS1": "", "LANG": "C.UTF-8"})
    try:
        yield fd
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(fd)


def type_until(fd: int, text: str, wanted: str) -> str:
    """Type into a shell, and return what it shows up to what is wanted."""
    os.write(fd, text.encode())
    shown, deadline = "", time.monotonic() + TYPED_S
    while wanted not in shown and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            shown += os.read(fd, 4096).decode(errors="replace")
    assert wanted in shown, shown
    return shown


SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOADED = {"zsh": "autoload -U compinit && compinit -u -D; "}


@pytest.mark.parametrize("name", SHELLS)
def test_in_the_shell(name: str, home: Path) -> None:
    """Tab completes a command, an option, what that may be, and an agent's name."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    script = home / f"agentd.{name}"
    script.write_text(agentd(home, "completion", name).stdout)
    assert script.read_text() == SCRIPTS[name]
    with shell(home, SHELLS[name]) as fd:
        type_until(fd, f"{LOADED.get(name, '')}source {script}; echo rea''dy\n", "ready\r\n")
        type_until(fd, "agentd sess\t", "agentd sessions ")
        type_until(fd, "--sta\t", "--state ")
        type_until(fd, "par\t", "parked ")
        type_until(fd, "--agent fo\t", "folder ")
