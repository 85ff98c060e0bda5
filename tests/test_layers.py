"""The shape of the code: one importer a fragile library, true pages, small files, one name a thing.

`uv run python -m tests.test_layers` prints the figures.
"""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from agentd.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "agentd"
DEFERRED = "agentd/worker/first_imports.py"  # imports them first, and uses nothing of them
# A library that may change under us, and the only places that may import it.
IMPORTERS = {
    "baml_py": {"agentd/llm/baml.py"},
    "mlx_lm": {"agentd/model_server"},
    "llguidance": {"agentd/model_server"},
    "apscheduler": {"agentd/worker/schedule.py"},
    "cronsim": {"agentd/config/cron.py"},
    "plistlib": {"agentd/macos/launchd.py"},
    "watchfiles": {"agentd/supervisor/file_changes.py"},
    "structlog": {"agentd/logs/logger.py", DEFERRED},
    "mcp": {"agentd/mcp", "agentd/commands/mcp.py"},
    "apsw": {"agentd/bus", "agentd/sessions", "agentd/storage", "agentd/tools/query.py"},
    "huggingface_hub": {"agentd/models/huggingface.py"},
    "tomli_w": {"agentd/commands/demo/temporary.py"},
    "platformdirs": {"agentd/paths.py", DEFERRED},
}

TOP_MODULES_MAX = 16
LAYER_LINES_MAX = 12
README_LINES_MAX = 160
FILE_LINES_MAX = 350

# Longer files, each with its reason.
LONG = {"agentd/bus/sql.py": "all statements in one place"}

# Files of one name in several rooms, each with the thing that all of them mean by it. Not listed:
# a room's main file, called as the room is, and the command of a noun, called as it is typed.
SAME_NOUN = {
    "agent": "an agent: its class, and its configuration",
    "http": "HTTP: the tool that speaks it as a client, and the room that speaks it as a server",
    "requests": "what others ask of a process: of the model server, and of the supervisor",
    "storage": "the database's storage: the room that keeps it well, and the doctor's look at it",
}


@cache
def files() -> Mapping[Path, ast.Module]:
    """Return the files of agentd, read."""
    return {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}


def place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported, at the top or inside functions: modules, and names in modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(file: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports(ast.parse(file.read_text()))}


@pytest.mark.parametrize("library", IMPORTERS)
def test_fragile_library_has_one_importer(library: str) -> None:
    """A library's next release can break one place, not twenty."""
    for file in (*files(), *ROOT.glob("agents/*.py")):
        if library in packages(file):
            assert any(place(file).startswith(allowed) for allowed in IMPORTERS[library]), file


def layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found: list[str] = contracts["contracts"][0]["layers"]
    return found


def test_paths_of_people_are_expanded_in_one_place() -> None:
    """`expanduser` raises RuntimeError for an unknown user; `paths.expanded` says it clearly."""
    for file in (*ROOT.glob("agentd/**/*.py"), *ROOT.glob("agents/*.py")):
        found = [n.attr for n in ast.walk(ast.parse(file.read_text())) if type(n) is ast.Attribute]
        assert file.name == "paths.py" or "expanduser" not in found, file


def test_page_shows_the_layers() -> None:
    """The table that people read is the one that `lint-imports` checks, and fits one glance."""
    assert len(layers()) <= LAYER_LINES_MAX
    assert "```text\n" + "\n".join(layers()) + "\n```" in (PACKAGE / "README.md").read_text()


def circles() -> list[set[str]]:
    """Return the modules that import each other, circle by circle."""
    names = {}
    for file in files():
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    needs: dict[str, set[str]] = {}
    for name, file in names.items():
        targets = {n if n in names else n.rpartition(".")[0] for n in imports(files()[file])}
        needs[name] = targets & names.keys() - {name}
    found: list[set[str]] = []
    while True:
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            circle = error.args[1]  # ends with what it begins with, and says who is needed by whom
            found.append(set(circle))
            needs[circle[1]].discard(circle[0])
        else:
            return found


def test_imports_run_in_no_circle() -> None:
    """Each module can be read after those that it imports, also those that it imports for types."""
    assert circles() == []


def top_modules() -> list[str]:
    return sorted(file.stem for file in PACKAGE.glob("*.py"))


def test_few_modules_stand_at_the_top() -> None:
    """Who opens the folder sees rooms, and a few words that all of them use."""
    assert len(top_modules()) <= TOP_MODULES_MAX


def long_files() -> dict[str, int]:
    return {place(file): lines(file) for file in files() if lines(file) > FILE_LINES_MAX}


def test_a_file_can_be_read_in_one_sitting() -> None:
    """No file is longer than 350 lines, without a reason."""
    assert long_files().keys() == LONG.keys()


def unnamed_modules() -> list[str]:
    """Return modules that their room's own docstring does not name, but for what people type."""
    typed = {command.module for command in COMMANDS}
    found = []
    for file in files():
        room = file.with_name("__init__.py")
        private = file.stem in ("__init__", "__main__") or file.parent == PACKAGE
        if private or (file.parent.name == "commands" and file.stem in typed):
            continue
        if f"`{file.name}`" not in (ast.get_docstring(files()[room]) or ""):
            found.append(place(file))
    return found


def test_a_room_says_what_its_files_are() -> None:
    """Who enters a room learns where to look, without opening file after file."""
    assert unnamed_modules() == []


def double_modules() -> dict[str, list[str]]:
    """Return files and rooms of one name, without rooms' main files and what people type."""
    typed = {PACKAGE / "commands" / command.module for command in COMMANDS}
    found = defaultdict(list)
    for file in files():
        path = file.parent if file.name == "__init__.py" else file.with_suffix("")
        main = file.stem in (file.parent.name, "__main__")
        if not (main or path in typed):
            found[path.name].append(place(path))
    return {name: places for name, places in found.items() if len(places) > 1}


def test_a_modules_name_means_one_thing() -> None:
    """Who hears of a file's name knows which is meant."""
    found = double_modules()
    assert found.keys() == SAME_NOUN.keys(), found


def double_classes() -> dict[str, list[str]]:
    """Return classes of one name, or of one that differs by an underscore, in several files."""
    found = defaultdict(set)
    for file, tree in files().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].add(place(file))
    return {name: sorted(places) for name, places in found.items() if len(places) > 1}


def test_a_class_name_means_one_thing() -> None:
    """An error message, a log line or a search for a class leads to one place."""
    assert double_classes() == {}


def readme() -> list[str]:
    return (ROOT / "README.md").read_text().splitlines()


def test_the_first_page_is_short() -> None:
    """A newcomer reads all of it. That its contents stand at its top, test_docs.py holds."""
    assert len(readme()) <= README_LINES_MAX


def figures() -> Iterator[tuple[str, str]]:
    """Yield the figures of this page's aims: a name, what is, and what may be."""
    longest = max(files(), key=lambda file: lines(file) * (place(file) not in LONG))
    yield "lines of agentd/", f"{sum(map(lines, files()))} in {len(files())} files"
    yield "modules at the top", f"{len(top_modules())}, at most {TOP_MODULES_MAX}"
    yield "lines of the layers' table", f"{len(layers())}, at most {LAYER_LINES_MAX}"
    yield "lines of README.md", f"{len(readme())}, at most {README_LINES_MAX}"
    yield "longest file", f"{place(longest)}, {lines(longest)} lines, at most {FILE_LINES_MAX}"
    yield "import circles", f"{'; '.join(', '.join(sorted(c)) for c in circles()) or 'none'}"
    yield "module names in several rooms", ", ".join(sorted(double_modules()))
    yield "class names in several files", ", ".join(sorted(double_classes())) or "none"


if __name__ == "__main__":
    for name, figure in figures():
        print(f"{name}: {figure}")
