"""The shape of the code: fragile libraries have one importer, and the page of layers is true."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEFERRED = "agentd/worker/deferred.py"  # imports them first, and uses nothing of them
# A library that may change under us, and the only places that may import it.
IMPORTERS = {
    "baml_py": {"agentd/llm/baml.py"},
    "mlx_lm": {"agentd/model_server"},
    "llguidance": {"agentd/model_server"},
    "apscheduler": {"agentd/worker/schedule.py"},
    "cronsim": {"agentd/config/cron.py"},
    "plistlib": {"agentd/macos/launchd.py"},
    "watchfiles": {"agentd/supervisor/reload.py"},
    "structlog": {"agentd/logs/logger.py", DEFERRED},
    "apsw": {"agentd/bus", "agentd/sessions", "agentd/storage"},
    "huggingface_hub": {"agentd/models/huggingface.py"},
    "tomli_w": {"agentd/commands/demo/temporary.py"},
    "platformdirs": {"agentd/paths.py", DEFERRED},
}


def imports(file: Path) -> set[str]:
    """Return the top-level packages that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("library", IMPORTERS)
def test_fragile_library_has_one_importer(library: str) -> None:
    """A library's next release can break one place, not twenty."""
    for file in (*ROOT.glob("agentd/**/*.py"), *ROOT.glob("agents/*.py")):
        if library in imports(file):
            place = file.relative_to(ROOT).as_posix()
            assert any(place.startswith(allowed) for allowed in IMPORTERS[library]), place


def test_paths_of_people_are_expanded_in_one_place() -> None:
    """`expanduser` raises RuntimeError for an unknown user; `paths.expanded` says it clearly."""
    for file in (*ROOT.glob("agentd/**/*.py"), *ROOT.glob("agents/*.py")):
        found = [n.attr for n in ast.walk(ast.parse(file.read_text())) if type(n) is ast.Attribute]
        assert file.name == "paths.py" or "expanduser" not in found, file


def test_page_shows_the_layers() -> None:
    """The table that people read is the one that `lint-imports` checks, and fits one glance."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    assert len(layers) <= 12
    assert "```text\n" + "\n".join(layers) + "\n```" in (ROOT / "agentd" / "README.md").read_text()
