"""RunCommand: listed programs only, a clean environment, and an end in any case."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.process.environment import PROGRAM_PATH
from agentd.testing import wait_for
from agentd.tools.toolbox import Toolbox

PYTHON = sys.executable


def toolbox(tmp_path: Path, *run: str, **more: Any) -> Toolbox:
    return Toolbox(Permissions(run=run), **more)


def python(tools: Toolbox, code: str, *args: str) -> dict[str, Any]:
    result = tools.call("RunCommand", {"program": PYTHON, "args": ["-c", code, *args]})
    assert not result.trusted
    return dict(result.value)


def test_exit_code_and_output(tmp_path: Path) -> None:
    """Both streams come back, with the exit code; a failing program is a result, no error."""
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert python(toolbox(tmp_path, PYTHON), code) == {"exit": 3, "output": "out\nerr\n"}


def test_arguments_are_not_a_shell(tmp_path: Path) -> None:
    """Arguments arrive as they are: nothing is expanded, joined or run."""
    value = python(toolbox(tmp_path, PYTHON), "import sys; print(sys.argv[1:])", "$HOME; *", "-x")
    assert value["output"] == "['$HOME; *', '-x']\n"


def test_only_listed_programs(tmp_path: Path) -> None:
    """A program is run by its listed name or path; another one of the same name is not."""
    fake = tmp_path / "true"
    fake.write_text("#!/bin/sh\necho fake\n")
    fake.chmod(0o755)
    tools = toolbox(tmp_path, "true", "./relative", "not-installed-anywhere")
    assert tools.call("RunCommand", {"program": "true", "args": []}).value["output"] == ""
    for program in ("sh", str(fake), "../true", "./relative", "relative"):
        with pytest.raises(PermissionRefused, match="may not be run"):
            tools.call("RunCommand", {"program": program, "args": []})
    with pytest.raises(ToolError, match="not installed"):
        tools.call("RunCommand", {"program": "not-installed-anywhere", "args": []})


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the daemon reaches a program; it stands in a folder of its own."""
    monkeypatch.setenv("SECRET_TOKEN", "x")
    code = "import os; print(sorted(os.environ)); print(os.getcwd())"
    names, folder = python(toolbox(tmp_path, PYTHON), code)["output"].splitlines()
    assert "SECRET" not in names and "HOME" in names
    assert not Path(folder).exists(), "it is left behind"


def test_inherits_no_descriptor_and_no_group(tmp_path: Path) -> None:
    """A program sees only its three streams, and stays in the worker's process group."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = f"import os; print(os.getpgrp(), flush=True); os.fstat({write})"
    value = python(toolbox(tmp_path, PYTHON), code)
    os.close(read)
    os.close(write)
    assert value["output"].startswith(f"{os.getpgrp()}\n") and "Bad file descriptor" in str(value)


def test_output_is_bounded(tmp_path: Path) -> None:
    """A flood is read to its end and mostly dropped, with markers."""
    value = python(toolbox(tmp_path, PYTHON), "print('x' * 3_000_000)")
    assert value["exit"] == 0 and len(value["output"]) < 17_000
    assert "...[cut " in value["output"]
    assert value["output"].endswith("bytes]")


def test_the_deadline_kills(tmp_path: Path) -> None:
    """A program that does not end is killed at the deadline, and the model is told."""
    tools = toolbox(tmp_path, PYTHON, deadline_s=0.3)
    with pytest.raises(ToolError, match=r"longer than 0\.3 s"):
        python(tools, "import time; time.sleep(60)")


def test_a_child_left_behind_does_not_hold_the_call(tmp_path: Path) -> None:
    """The call ends with the program, even if its child keeps the pipe open and writes to it."""
    code = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c',"
        "'import os, time\\nfor _ in range(200):\\n os.write(1, b\"x\"); time.sleep(0.1)']);"
        "print('gone', flush=True)"
    )
    value = python(toolbox(tmp_path, PYTHON, deadline_s=10), code)
    assert value["exit"] == 0 and "gone" in value["output"]


def test_a_stop_interrupts(tmp_path: Path) -> None:
    """`close` from another thread kills the program and raises Stopped in the call."""
    tools = toolbox(tmp_path, PYTHON)
    marker = tmp_path / "up"
    raised: list[BaseException] = []

    def work() -> None:
        try:
            python(tools, f"open({str(marker)!r}, 'w').write('x'); import time; time.sleep(60)")
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(marker.exists, seconds=30)
    tools.close()
    thread.join(30)
    assert raised


def test_what_cannot_start_is_told(tmp_path: Path) -> None:
    """A listed file that is no program, and a NUL in an argument, are ToolErrors."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00\x01")
    broken.chmod(0o755)
    tools = toolbox(tmp_path, str(broken), "true")
    with pytest.raises(ToolError, match="cannot be started"):
        tools.call("RunCommand", {"program": "broken", "args": []})
    with pytest.raises(ToolError, match="NUL"):
        tools.call("RunCommand", {"program": "true", "args": ["a\0b"]})


def test_program_path_is_fixed() -> None:
    """Where programs are found does not depend on how the daemon was started."""
    assert all(part.startswith("/") for part in PROGRAM_PATH.split(":"))
