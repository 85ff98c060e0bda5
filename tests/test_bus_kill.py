"""The bus under SIGKILL and under many writers: nothing lost, nothing twice, nothing by halves."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "program",
    [
        "every_write",
        "every_write_of_a_failure",
        "every_write_of_a_parking",
        "chain",
        "writers",
        "creators",
    ],
)
def test_the_bus_survives(tmp_path: Path, program: str) -> None:
    """See the docstrings in bus_kill.py: each program is one behaviour, and asserts it itself."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bus_kill", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if program.startswith("every_write"):
        assert int(ran.stdout.split()[-1]) > 20, ran.stdout  # instants: the driver saw the writes
