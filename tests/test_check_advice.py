"""What `agentd check` says of agents that are legal, and will not do what was meant."""

import json
from pathlib import Path

import pytest

from agentd.commands.advice import spare, unlikely
from agentd.config.agent import load_agent
from agentd.paths import Paths
from tests.commandline import HELLO, write_agent
from tests.test_check import LISTENER, Check, check, paths, problem

__all__ = ["check", "paths"]  # fixtures


@pytest.mark.parametrize(
    ("schedule", "limit", "crowded"),
    [
        ('every = "1s"', 60, True),
        ('every = "59s"', 60, True),
        ('every = "1m"', 60, False),
        ('every = "1h"', 1, False),
        ('every = "30m"', 1, True),
        ('cron = "* * * * *"', 60, False),
        ('cron = "* * * * *"', 59, True),
        ('cron = "*/10 9 * * 1"', 5, True),
        ('cron = "*/10 9 * * 1"', 6, False),
        ('cron = "0 0 31 12 *"', 1, False),
    ],
)
def test_a_schedule_that_is_due_too_often_is_told(
    schedule: str, limit: int, crowded: bool, tmp_path: Path
) -> None:
    """More sessions than may begin: the rest would wait for ever longer."""
    file = tmp_path / "reader.toml"
    text = HELLO.replace('subscribe = ["note.*"]', f"schedule = {{ {schedule} }}")
    file.write_text(f"{text}[limits]\nsessions_per_hour = {limit}\n")
    said = list(unlikely(load_agent(file)))
    assert [f"more often than {limit} times" in what for what in said] == [True] * crowded


@pytest.mark.parametrize(
    ("tools", "permissions", "unused"),
    [
        ([], 'net = ["example.org"]', ["net"]),
        (["HttpGet"], 'net = ["example.org"]', []),
        (["ReadFile"], 'net = ["example.org"]\nread = ["/"]\nrun = ["ls"]', ["net", "run"]),
        (["ReadFile"], 'net = []\nread = ["/"]', []),
        (["WriteFile"], 'read = ["/"]\nwrite = ["/tmp"]', ["read"]),
    ],
)
def test_a_permission_that_no_tool_needs_is_told(
    tools: list[str], permissions: str, unused: list[str], tmp_path: Path
) -> None:
    """Of agents made of configuration; what code reads by itself is its own to know."""
    file = tmp_path / "reader.toml"
    text = f"{LISTENER}tools = {json.dumps(tools)}\n[permissions]\n{permissions}\n"
    file.write_text(text)
    assert [what.split()[0] for what in spare(load_agent(file))] == [
        f"permissions.{kind}" for kind in unused
    ]
    file.write_text(text.replace('agent = "task"', 'agent = "own"'))
    assert list(spare(load_agent(file))) == []
    file.write_text(text.replace("tools = ", 'first = [{ ReadFile = "/x" }]\ntools = '))
    assert not any("permissions.read" in what for what in spare(load_agent(file)))


def test_such_a_permission_is_a_warning(paths: Paths, check: Check) -> None:
    """And no problem: it may be of use tomorrow."""
    write_agent(paths.user, "reader", f'{LISTENER}[permissions]\nnet = ["example.org"]\n')
    found = check()
    (warning,) = found["warnings"]
    assert found["ok"] is True and "HttpGet" in warning["what"]


@pytest.mark.parametrize("blank", [" " * 8, "\\t\\n" * 4, "\u200b" * 8, "\u00a0" * 8])
@pytest.mark.parametrize("text", ["A greeting was written.", "Greet the person in the note."])
def test_a_text_that_says_nothing_is_wrong(
    text: str, blank: str, paths: Paths, check: Check
) -> None:
    """What done looks like, and a task's instructions."""
    write_agent(paths.user, "reader", LISTENER.replace(text, blank))
    assert "must not be blank" in problem(check())["what"]


def test_a_batch_has_no_field_for_first_steps(tmp_path: Path) -> None:
    """Each of its sessions would be refused."""
    file = tmp_path / "reader.toml"
    first = 'first = [{ ReadFile = "{path}" }]\n'
    file.write_text(f'batch = {{ within = "5m" }}\n{LISTENER}{first}')
    assert [what for what in unlikely(load_agent(file)) if what.startswith("batch: {path}")]
    file.write_text(f"{LISTENER}{first}")
    assert not [what for what in unlikely(load_agent(file)) if what.startswith("batch")]
