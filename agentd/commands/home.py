"""What several commands need: the bus of this home, and whether a supervisor runs in it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agentd.bus import AgentRow, Bus, Opening
from agentd.config.suggest import did_you_mean, listed
from agentd.errors import AgentdError, ConfigError, NotRunning, StorageError
from agentd.paths import Paths, private_folder
from agentd.process.lock import LockFile
from agentd.storage import database_files
from agentd.supervisor.client import query
from agentd.views.daemon_state import daemon_state

if TYPE_CHECKING:
    from agentd.config.agent import AgentConfig
    from agentd.config.daemon import ModelConfig
    from agentd.llm.endpoint import Endpoint

BUSY_MS = 10_000  # for a lock that another program holds on the database


def open_bus(paths: Paths, *, writes: bool = False) -> Bus:
    """Open the home's bus; a command that reads or sends never creates one.

    `writes`: what it acknowledges is to be as safe as agentd.toml wants it.

    Raises:
        NotRunning: there is no database yet.
        DamagedDatabase, NewerDatabase, StorageError: it cannot be used.
    """
    if not paths.database.exists():
        database_files.check(paths)
        raise NotRunning(
            "there is no database yet",
            where=str(paths.database),
            hint="start the daemon once with `agentd run`, or set AGENTD_HOME to its home",
        )
    opening = Opening(create=False, busy_ms=BUSY_MS, full_sync=writes and _full_sync(paths))
    return database_files.open_bus(paths, opening)


def _full_sync(paths: Paths) -> bool:
    from agentd.config.last_good import effective_config

    try:
        return effective_config(paths).bus.fullfsync
    except ConfigError:
        return False


def live_model(paths: Paths) -> "tuple[Endpoint, ModelConfig]":
    """Return the model that the agents ask now: of the running daemon, or a configured server.

    Raises:
        NotRunning: no daemon runs, and no other server is configured.
    """
    from agentd.config.daemon import load_daemon
    from agentd.llm.endpoint import Endpoint

    config = load_daemon(paths.daemon_file).model
    if config.url is None:
        query(paths)
    return Endpoint.discover(paths, config), config


@contextmanager
def home_alone(paths: Paths) -> Iterator[None]:
    """Hold the home, so that no daemon starts in it meanwhile.

    Raises:
        AgentdError: a daemon runs here.
    """
    lock = LockFile(paths.lock)
    try:
        private_folder(paths.run)
        free = lock.acquire()
    except OSError as error:
        raise StorageError(f"cannot be opened: {error.strerror}", where=str(paths.lock)) from error
    if not free:
        raise AgentdError(
            f"agentd is running (pid {lock.holder().get('pid', 'unknown')})",
            where=str(paths.user),
            hint="stop it first: `agentd stop`, or Ctrl-C where it was started",
        )
    try:
        yield
    finally:
        lock.close()


def find_agent(bus: Bus, paths: Paths, name: str) -> AgentRow:
    """Return an agent that can receive events.

    Raises:
        AgentdError: there is none of this name, and says which there are; or its file cannot be
            used, and says why.
    """
    present = bus.agents.present()
    if name in present:
        return present[name]
    file = paths.agents_d / f"{name}.toml"
    if name in agent_files(paths):
        _raise_problem(name, paths, file)
    raise no_such_agent(name, sorted({*present, *agent_files(paths)}))


def accepted_config(paths: Paths, row: AgentRow) -> "AgentConfig | None":
    """Return the file of an agent's accepted version, None where it cannot be read."""
    from agentd.admission.version import CONFIG
    from agentd.config.agent import load_agent

    try:
        return load_agent(paths.versions / row.name / row.version / CONFIG)
    except ConfigError:  # its worker says so
        return None


def _raise_problem(name: str, paths: Paths, file: Path) -> NoReturn:
    """Say why an agent that has a file is not there."""
    from agentd.config.agent import load_agent

    daemon = daemon_state(paths)
    for agent in daemon["agents"] if daemon else ():
        if agent["name"] == name and (problem := agent["problem"]):
            raise AgentdError(
                f"{name} is {agent['state']}: {problem['what']}",
                where=problem["where"],
                hint=problem["hint"],
            )
    if not load_agent(file).enabled:
        raise AgentdError(f"{name} is disabled", where=str(file), hint="set `enabled = true` in it")
    raise AgentdError(
        f"{name} was not accepted yet",
        where=str(file),
        hint="`agentd check` says whether it is right; `agentd run` starts it",
    )


def no_such_agent(name: str, known: Iterable[str]) -> AgentdError:
    """Return the error of a name that is no agent's: which there are, which may be meant."""
    names = list(known)
    return AgentdError(
        f"no agent is called {name!r}; there are: {listed(names)}{did_you_mean(name, names)}",
        hint="`agentd check` says what is wrong with an agent that is missing here",
    )


def check_known(name: str, paths: Paths, bus: Bus | None, *others: str) -> None:
    """Make sure that somebody of this name is or was here; `others` are no agents, but known too.

    Raises:
        AgentdError: nobody is or was.
    """
    agents = {
        *agent_files(paths),
        *(row.name for row in (bus.agents.list() if bus is not None else ())),
    }
    if name not in agents and name not in others:
        raise no_such_agent(name, sorted(agents))


def known_types(bus: Bus) -> list[str]:
    """Return the event types that an agent reads or that were published, for a hint."""
    return sorted({*subscribed_types(bus), *bus.events.types()})


def subscribed_types(bus: Bus) -> set[str]:
    """Return the event types, and prefixes of them, that an agent reads."""
    return {item for row in bus.agents.present().values() for item in row.subscribe}


def agent_files(paths: Paths) -> list[str]:
    """Return the names of the agents that have a file."""
    return [path.stem for path in paths.agents_d.glob("[!.]*.toml")]
