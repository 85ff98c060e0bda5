"""Asks every check, and mends what can be mended without a person."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from agentd.clock import Clock
from agentd.doctor import machine, setup, storage, writers
from agentd.doctor.finding import Finding
from agentd.errors import StorageError
from agentd.paths import Paths
from agentd.storage.health import sound
from agentd.storage.repair import Repaired, repair
from agentd.supervisor.housekeeping import leftovers, remove


def examine(paths: Paths, clock: Clock) -> Iterator[Finding]:
    """Yield what every check finds; nothing is changed."""
    config, agents, findings = setup.configuration(paths)
    yield from setup.daemon(paths)
    yield from findings
    yield from setup.model(paths, config)
    yield from storage.database(paths)
    yield from storage.space(paths, config)
    yield from storage.locks(paths)
    yield from storage.clock(paths, clock.now())
    yield from machine.permissions(paths)
    yield from writers.writers(paths)
    yield from machine.sandbox(config)
    yield from machine.limits(paths, agents)
    yield from machine.sqlite()
    yield from machine.blas()
    yield from setup.agent_file(paths)


@dataclass
class Mended:
    """What was mended: the database, if it was damaged, and other things in words."""

    repaired: Repaired | None = None
    done: list[str] = field(default_factory=list)


def mend(paths: Paths, clock: Clock) -> Mended:
    """Mend permissions, leftovers and a damaged database. The home's lock must be held.

    Raises:
        DamagedDatabase: nothing can be read of the database; it was left as it is.
        NewerDatabase, StorageError: it is in use, or the disk is full.
    """
    mended = Mended()
    for path, mode in (*machine.unsafe(paths), *writers.closable(paths)):
        try:
            path.chmod(mode)
        except OSError as error:
            raise StorageError(
                f"cannot be made private: {error.strerror}", where=str(path)
            ) from error
        mended.done.append(f"closed {path} to others")
    scratch = [paths.scratch] if paths.scratch.is_dir() else []
    for left in (*leftovers(paths), *scratch):  # the home's lock is held: nobody else is here
        remove(left)
        mended.done.append(f"removed {left}, left by a process that was killed")
    if paths.database.exists() and not sound(paths.database):
        mended.repaired = repair(paths.database, clock)
    return mended
