"""What installs: pinned where it is fragile, hashed, and free of package hosts."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = (ROOT / ".ci" / "requirements.txt").read_text()


def test_fragile_libraries_are_pinned_exactly() -> None:
    """mlx-lm's internals and BAML's generated code are no stable interfaces."""
    assert {"mlx-lm==0.32.2", "baml-py==0.226.3"} <= set(PROJECT["dependencies"])


def test_requirements_are_hashed_and_name_no_host() -> None:
    """The reproducible set works with any index: every pin has hashes, nothing has an address."""
    pins = re.findall(r"^[a-z0-9].*==", REQUIREMENTS, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9]\S*==\S+.*\\\n    --hash=", REQUIREMENTS, re.M))
    assert "://" not in REQUIREMENTS and "--index" not in REQUIREMENTS


def test_requirements_cover_the_dependencies() -> None:
    """No dependency was added without its hash (uv pip compile --universal --generate-hashes)."""
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", REQUIREMENTS, re.MULTILINE))
    wanted = {re.split(r"[^a-z0-9._-]", name)[0] for name in PROJECT["dependencies"]}
    assert wanted <= pinned


def test_the_gate_runs_the_readmes_two_commands() -> None:
    """What a new user does first is what the gate does."""
    gate = (ROOT / ".ci" / "run").read_text().splitlines()
    readme = (ROOT / "README.md").read_text()
    for command in ("uv run agentd demo", "uv run pytest"):
        assert command in gate
        assert f"```sh\n{command}\n```" in readme


def test_no_lock_file_is_kept() -> None:
    """uv.lock names package hosts."""
    assert "uv.lock" in (ROOT / ".gitignore").read_text().splitlines()
