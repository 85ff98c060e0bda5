"""Kills on the way from a decision to its effect, where a person says yes or no in between."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("program", ["every_write", "every_write_of_a_no", "around_the_effect"])
def test_nothing_is_lost_approved_twice_or_done_twice(program: str, tmp_path: Path) -> None:
    """See approval_kill.py: each program is one behaviour, and asserts it itself."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.approval_kill", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
