"""The files that make agents: which names are read, and which only look as if they were.

Editors, downloads and file managers name files as they like: `x.toml.txt` is what TextEdit writes.
What is not read for its name is told to the person. Backup files of editors are left alone.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import shown
from agentd.paths import Paths

TOML, PYTHON, BAML = ".toml", ".py", ".baml"
# Last endings of what editors, tools and people put aside; nobody wants these to be read.
PUT_ASIDE = frozenset(
    (
        *("bak", "backup", "bk", "old", "orig", "rej", "save", "saved", "tmp", "temp", "new"),
        *("swp", "swo", "swx", "part", "partial", "crdownload", "download", "lock", "license"),
        *("disabled", "off", "inactive", "example", "sample", "dist"),
    )
)
LOOKED_AT = 500  # entries below one folder: somebody may have put a checkout or a link there
NAMED = 3  # files of a subfolder; more are counted
EXAMPLES = "eval"  # a folder in config/
OURS = frozenset({"agents.d", EXAMPLES})  # subfolders of config/ in which TOML files belong
NOBODYS = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True)
class Overlooked:
    """A file or folder that is not read, though a person may think so."""

    path: Path
    what: str
    hint: str

    def document(self) -> dict[str, str]:
        """Return it as `--json` shows problems."""
        return {"where": shown(str(self.path)), "what": self.what, "hint": self.hint}


def agent_names(agents_d: Path) -> list[str]:
    """Return the names of the agents that have a file, in order; some may be no proper names.

    There may be thousands, again and again: pathlib takes ten times as long.

    Raises:
        OSError: the folder cannot be read.
    """
    names = [entry.name for entry in os.scandir(agents_d)]
    return sorted(n.removesuffix(TOML) for n in names if n.endswith(TOML) and n[0] != ".")


def examples_file(name: str, paths: Paths) -> Path:
    """Return where the examples of a person's own agent are: cases that they corrected."""
    return paths.config / EXAMPLES / f"{name}{TOML}"


def overlooked(paths: Paths) -> list[Overlooked]:
    """Return what in a person's folders is not read, by path. A folder that is not there has none.

    Raises nothing for what it finds: a folder that cannot be listed is another look's to tell.
    """
    found = [
        *_misplaced(paths.config),
        *(item for folder, end in _folders(paths) for item in _misnamed(folder, end)),
        *(item for folder, end in _folders(paths)[1:] for item in _below(folder, end)),
    ]
    return sorted(found, key=lambda item: item.path)


def _folders(paths: Paths) -> list[tuple[Path, str]]:
    return [
        (paths.config, TOML),
        (paths.agents_d, TOML),
        (paths.agents, PYTHON),
        (paths.baml_src, BAML),
    ]


def _misplaced(config: Path) -> Iterator[Overlooked]:
    """Find agents' files beside agentd.toml, or in a folder that is not quite `agents.d`."""
    for name, is_folder in _entries(config):
        if name.startswith(".") or name == "agentd.toml":
            continue
        if name.endswith(TOML) and not is_folder:
            hint = f"an agent's file belongs into {shown(str(config / 'agents.d'))}"
            yield Overlooked(config / name, "this file is not read", hint)
        elif is_folder and name not in OURS:
            yield from _subfolder(config / name, TOML, config / "agents.d")


def _below(folder: Path, end: str) -> Iterator[Overlooked]:
    for name, is_folder in _entries(folder):
        known = name.startswith(".") or name.endswith(end) or name in NOBODYS
        if is_folder and not known:
            yield from _subfolder(folder / name, end, folder)


def _subfolder(folder: Path, end: str, home: Path) -> Iterator[Overlooked]:
    files, looked_at = list[str](), 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in NOBODYS)
        files += [str(Path(parent, name)) for name in sorted(names) if _ends(name, end)]
        looked_at += len(folders) + len(names)
        if looked_at > LOOKED_AT:
            break
    if files:
        listed = ", ".join(shown(file.removeprefix(f"{folder}/")) for file in files[:NAMED])
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        what = f"files in a subfolder are not read: {listed}{more}"
        yield Overlooked(folder, what, f"move them to {shown(str(home))}")


def _ends(name: str, end: str) -> bool:
    return name.casefold().endswith(end) and name[0] not in ".#"


def _misnamed(folder: Path, end: str) -> Iterator[Overlooked]:
    """Find files whose names do not end quite as they should, or that are hidden."""
    for name, is_folder in _entries(folder):
        right = _meant(name, end)
        if right is None or is_folder:
            continue
        what = f"this file is not read: its name does not end in {end}"
        if name.endswith(end):
            what = "this file is not read: its name begins with a dot"
        yield Overlooked(folder / name, what, f"rename it to {right}, or remove it")


def _meant(name: str, end: str) -> str | None:
    """Return the name that a file was probably meant to have, None for one that is right or other.

    Of `x.TOML`, `x.toml.txt`, `x.toml (1)`, `x.toml ` and `.x.toml` that is `x.toml`.
    """
    hidden = name.startswith(".")
    if name.startswith((".#", "._", "#")) or name.endswith(("~", "#")):
        return None
    if name.endswith(end) and not hidden:
        return None
    text = name.strip(".").casefold().rstrip()
    stem, found, rest = text.rpartition(end)
    if not stem or not found or (rest and (hidden or rest[0] not in " .(-_,")):
        return None
    last = rest.rpartition(".")[2].strip()
    if last in PUT_ASIDE or (rest.startswith(".") and last.isdigit()) or last.startswith("sb-"):
        return None  # "sb-": what a Mac's editors write while they save
    return (re.sub(r"[^a-z0-9_]+", "_", stem).strip("_") or "name") + end


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return the names in a folder, each with whether it is a folder itself."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, _is_folder(entry)) for entry in entries]
    except OSError:
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a ring of links, most of all
        return False
