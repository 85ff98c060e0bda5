"""`agentd run`: takes the home's lock, ends what an earlier supervisor left, records failures."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable

from agentd.clock import Clock, SystemClock
from agentd.config.daemon import DaemonConfig, load_daemon
from agentd.config.last_good import last_good_config
from agentd.errors import AgentdError, AlreadyRunning, ConfigError, storage_errors
from agentd.events import DAEMON
from agentd.logs import logger as log
from agentd.macos import launchd
from agentd.paths import Paths
from agentd.process.jobs import fault
from agentd.process.lock import LockFile
from agentd.process.stop import stop_at_once
from agentd.process.takeover import take_over
from agentd.storage.own_folder import move_in
from agentd.supervisor.argv import Commands
from agentd.supervisor.supervisor import Supervisor
from agentd.whole import remove, write_whole


def run(
    paths: Paths,
    *,
    commands: Commands | None = None,
    clock: Clock | None = None,
    starts: Callable[[DaemonConfig], None] = lambda config: None,
) -> None:
    """Supervise this home until SIGTERM or SIGINT; returns when everything has stopped in order.

    `starts` is called once the home is ours, with the configuration in force.

    Under launchd, where nobody sees an error, it goes on with the last agentd.toml that was right.
    One that trying again cannot mend is recorded and the call returns: launchd would try for ever.

    Raises:
        AlreadyRunning: another supervisor holds this home.
        ConfigError: agentd.toml is wrong, or, in a terminal, its port is in use.
        StorageError: a folder or the database cannot be used.
        AgentdError: a fault of our own, whose traceback stands in the log.
    """
    clock = clock or SystemClock()
    lock = LockFile(paths.lock)
    try:
        paths.create()
        with storage_errors(
            lock.path, "free some disk space, or make its folder writable", "cannot be opened"
        ):
            acquired = lock.acquire()
        if not acquired:
            pid = lock.holder().get("pid", "unknown")
            raise AlreadyRunning(
                f"another supervisor is running (pid {pid})",
                where=str(paths.user),
                hint="stop that one first, or set AGENTD_HOME to another folder",
            )
        lock.record(os.getpid(), clock=clock)
        try:
            _supervise(paths, commands or Commands(), clock, lock, starts)
        except AgentdError:
            raise
        except Exception as error:  # the top of the process: its traceback belongs in the log
            log.get_logger().critical("supervisor.broken", exc_info=error)
            raise fault(error) from error
    except AgentdError as error:
        if not isinstance(error, AlreadyRunning):
            _record_failure(paths, error)
        if not launchd.under_launchd() or launchd.exit_code(error):
            raise
    finally:
        log.close()
        lock.close()


def _supervise(
    paths: Paths,
    commands: Commands,
    clock: Clock,
    lock: LockFile,
    starts: Callable[[DaemonConfig], None],
) -> None:
    config, problem = _configuration(paths)
    starts(config)
    logger = log.configure(DAEMON, paths, config.logs, clock=clock)
    # What a supervisor that was killed may have left, before anything new starts.
    for path in sorted(paths.locks.glob("*.lock")):
        if LockFile(path).holder().get("pid") == os.getpid():
            continue  # ours, from whoever started us as a child of its own
        child_lock, killed = take_over(path)
        with contextlib.suppress(OSError):
            path.unlink()  # the next start of this child makes a new one; its agent may be gone
        child_lock.close()
        if killed is not None:
            logger.warning("worker.took_over", agent=path.stem, killed_group=killed)
    for socket in paths.wake.glob("*.sock"):  # nobody is left who listens
        socket.unlink(missing_ok=True)
    remove(paths.scratch)  # nobody is left who uses it
    move_in(paths, clock.now())
    supervisor = Supervisor(paths, config, commands, clock, logger, lock, problem)
    try:
        asyncio.run(supervisor.run())
    finally:
        stop_at_once()  # all is over: the loop's own handlers are gone


def _configuration(paths: Paths) -> tuple[DaemonConfig, ConfigError | None]:
    """Return what to start with, and what is wrong with agentd.toml."""
    try:
        return load_daemon(paths.daemon_file), None
    except ConfigError as error:
        if not launchd.under_launchd() or (last := last_good_config(paths)) is None:
            raise
        return last, error


def _record_failure(paths: Paths, error: AgentdError) -> None:
    """Keep the reason where people look: the log, and what `agentd status` reads."""
    logger = log.configure(DAEMON, paths, DaemonConfig().logs)
    logger.error("supervisor.failed", what=error.what, where=error.where, hint=error.hint)
    # The home itself may be what is wrong; the error then still reaches the caller.
    with contextlib.suppress(OSError):
        write_whole(paths.run / "failed.json", json.dumps(error.document()))
