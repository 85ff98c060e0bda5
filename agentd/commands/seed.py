"""The shipped configuration in a home: the examples once, the editors' schemas at each run."""

from pathlib import Path

from agentd.errors import StorageError
from agentd.paths import Paths, private_folder, shipped
from agentd.whole import write_whole

SCHEMA = ".schema.json"


def seed(paths: Paths) -> list[Path]:
    """Write what a new home lacks, and the schemas of this version; return the files written.

    A home is new until it has a database: `agentd new`, or a file that was dropped before the first
    run, must not keep the examples away. Later what a person removed stays away. No file of a
    person's is ever overwritten.

    Raises:
        StorageError: a file cannot be written.
    """
    configured = paths.daemon_file.exists() or any(paths.agents_d.glob("*.toml"))
    new = not (configured and paths.database.exists())
    source = shipped() / "config"
    files = sorted(p for p in source.rglob("*") if p.suffix in (".toml", ".json"))
    return [
        target
        for file in files
        if (new or file.name.endswith(SCHEMA))
        and _copied(file, target := paths.config / file.relative_to(source))
    ]


def seed_schemas(paths: Paths) -> None:
    """Write the schemas that the first line of a configuration file names.

    Raises:
        StorageError: a file cannot be written.
    """
    for file in sorted((shipped() / "config").glob(f"*{SCHEMA}")):
        _copied(file, paths.config / file.name)


def write_private(path: Path, text: str, *, new: bool = True) -> None:
    """Write a file for this user alone, whatever the umask: it says what runs.

    `new`: it must not be there yet.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        private_folder(path.parent)
        write_whole(path, text, new=new)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", where=str(path), hint="make it writable"
        ) from error


def _copied(file: Path, target: Path) -> bool:
    """Write one file, unless it is there; a schema of another version is ours to replace."""
    text = file.read_text(encoding="utf-8")
    there = target.exists() or target.is_symlink()
    replaced = file.name.endswith(SCHEMA) and not target.is_symlink()
    if there and (not replaced or _holds(target, text)):
        return False
    write_private(target, text, new=not there)
    return True


def _holds(target: Path, text: str) -> bool:
    return target.read_bytes() == text.encode()
