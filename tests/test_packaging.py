"""What installs: pinned where it is fragile, hashed, and free of package hosts."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.test_layers import packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = (ROOT / ".ci" / "requirements.txt").read_text()


def test_fragile_libraries_are_pinned_exactly() -> None:
    """mlx-lm's internals and BAML's generated code are no stable interfaces."""
    assert {"mlx-lm==0.32.2", "baml-py==0.226.3"} <= set(PROJECT["dependencies"])


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {
        re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in requirements
    }


def test_what_is_imported_is_declared() -> None:
    """What comes along with another package today may not come with its next release."""
    of = packages_distributions()
    wanted: dict[str, str] = {}
    for file in (*ROOT.glob("agentd/**/*.py"), *ROOT.glob("agents/*.py")):
        for package in packages(file) - sys.stdlib_module_names - {"agentd", "__future__"}:
            wanted[package] = file.relative_to(ROOT).as_posix()
    assert wanted.pop("pytest") == "agentd/testing/plugin.py", "pytest itself imports that"
    declared = names(PROJECT["dependencies"])
    for package, where in wanted.items():
        found = {name.lower().replace("_", "-") for name in of.get(package, [])}
        assert found & declared, f"{where} imports {package}, which pyproject.toml does not declare"


def test_the_license_is_in_the_wheel() -> None:
    """The whole text: a name alone grants nothing."""
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0" and PROJECT["license-files"] == ["LICENSE"]
    assert "Apache License\n" in text and "END OF TERMS AND CONDITIONS" in text
    assert "Version 2.0, January 2004" in text and len(text) > 10_000


def test_requirements_are_hashed_and_name_no_host() -> None:
    """The reproducible set works with any index: every pin has hashes, nothing has an address."""
    pins = re.findall(r"^[a-z0-9].*==", REQUIREMENTS, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9]\S*==\S+.*\\\n    --hash=", REQUIREMENTS, re.M))
    assert "://" not in REQUIREMENTS and "--index" not in REQUIREMENTS


def test_requirements_cover_the_dependencies() -> None:
    """No dependency was added without its hash (uv pip compile --universal --generate-hashes)."""
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", REQUIREMENTS, re.MULTILINE))
    assert names(PROJECT["dependencies"]) <= pinned


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


def test_the_readme_warns_of_the_other_package() -> None:
    """PyPI's `agentd` is somebody else's: `pip install agentd` would run their code."""
    readme = (ROOT / "README.md").read_text()
    assert PROJECT["name"] == "local-agentd" and "Do not `pip install agentd`" in readme
    assert readme.count("pip install agentd") == 1 and "uv tool install agentd" not in readme
