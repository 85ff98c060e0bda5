"""`agentd run`: starts everything in order; reacts to signals, files, commands; stops in order."""

import asyncio
import contextlib
import os
import random
import signal
from functools import partial
from typing import Any

from agentd import __version__
from agentd.bus import Opening
from agentd.clock import Clock, iso
from agentd.config.daemon import DaemonConfig
from agentd.errors import AgentdError, ConfigError, StorageError, shown
from agentd.logs import logger as log
from agentd.macos.folder_access import FolderAccess
from agentd.mcp.pins import Pins
from agentd.paths import Paths, shipped
from agentd.process.jobs import Jobs, in_thread
from agentd.process.lock import LockFile
from agentd.process.stop import ends_on_hangup, let_go
from agentd.process.usage import UsageMeter
from agentd.sandbox.level import reached
from agentd.states import WorkerState
from agentd.supervisor import bytecode, external_model, secret_answers
from agentd.supervisor.agents import Agents
from agentd.supervisor.argv import Commands
from agentd.supervisor.checks import Checks
from agentd.supervisor.children import TICK_S, Reaper
from agentd.supervisor.control import Control
from agentd.supervisor.file_changes import changes, stamps
from agentd.supervisor.helpers import Helpers
from agentd.supervisor.home_files import HomeFiles, close
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.housekeeping import Housekeeping
from agentd.supervisor.model import ModelHost
from agentd.supervisor.process_use import measured
from agentd.supervisor.records import Records
from agentd.supervisor.requests import Requests
from agentd.supervisor.restart import Life, Rules
from agentd.supervisor.settings import Settings
from agentd.supervisor.slot import Shared
from agentd.supervisor.sockets import Sockets
from agentd.supervisor.worker_forks import WorkerForks

GUARD_S = 1.0  # between looks whether this home is still ours
MODEL_POLL_S = 2.0  # between looks for a model that is not pulled yet
# A stop takes at most 10 s in all, whatever stop_grace says: launchd and people wait for it.
WORKERS_STOP_S = 4.5
MODEL_STOP_S = 2.5
RECORDS_STOP_S = 0.5
KILLED_S = 0.5  # for killed groups to be gone


class Supervisor:
    """One run of the supervisor, in one event loop."""

    def __init__(
        self,
        paths: Paths,
        config: DaemonConfig,
        commands: Commands,
        clock: Clock,
        logger: log.Logger,
        lock: LockFile,
        problem: ConfigError | None = None,
    ) -> None:
        self._paths, self._log = paths, logger
        self._since = clock.now()
        self._settings = Settings(paths, config, problem, logger)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # asked to stop again while it stops
        self._started = self._reload_asked = False
        self._failure: AgentdError | None = None
        self._jobs = Jobs(logger, self._fail)
        self._reaper = Reaper(clock)
        opening = Opening(full_sync=config.bus.fullfsync)
        self._records = Records(paths, clock, logger, opening, self._jobs)
        self._housekeeping = Housekeeping(
            paths, config, self._records.announce, log=logger, clock=clock
        )
        self._files = HomeFiles(paths, lock, clock, logger)
        self._sockets = Sockets(paths, self._told, self._on_wake, logger)
        rules, chance = Rules.of(config.supervisor), random.Random()
        life = partial(Life, rules, clock, chance)
        self._folder_access = FolderAccess(lambda: self._agents.folders(), logger)
        self._model = ModelHost(
            paths, config, commands, life(), self._reaper, log=logger, clock=clock
        )
        parts = HostParts(
            paths, lambda: self._settings.config, commands, self._reaper, self._jobs, logger, clock
        )
        self._workers = WorkerForks(parts, life())
        self._usage = UsageMeter()
        self._helpers = Helpers(
            parts,
            self._records,
            lambda: self._agents.versions(),
            self._told,
            life,
            self._changed,
        )
        asked = {
            **self._helpers.handlers(),
            **external_model.handlers(lambda: self._model.config, paths),
            "verify": self._records.verify,
            "model": self._model.link,
            "secret": secret_answers.handler(paths),
            "ear": self._sockets.ear,
        }
        shared = Shared(
            paths,
            self._workers,
            self._records,
            Checks(paths, commands, self._reaper, clock, self._workers),
            self._reaper,
            self._jobs,
            Requests(asked, self._helpers.leave, logger),
            checked=self._folder_access.try_soon,
            log=logger,
            clock=clock,
            chance=chance,
        )
        self._agents = Agents(shared, rules)
        open_page = self._helpers.ui.open
        obeyed = (self._agents, self._model, self._on_reload, open_page)
        self._control = Control(self._records, *obeyed, self._stop, log=logger, clock=clock)

    async def run(self) -> None:
        """Start, wait for a signal, stop. Signals are heeded from here to the end.

        Raises:
            ConfigError: the model server's port is in use.
            StorageError: the database cannot be used, or was removed while we ran.
            AgentdError: a fault of our own, whose traceback stands in the log.
        """
        loop = asyncio.get_running_loop()
        self._jobs.watch(loop)
        hangup = self._on_stop_signal if ends_on_hangup() else self._on_reload
        loop.add_signal_handler(signal.SIGHUP, hangup)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        self._reaper.attach(loop)
        starting = self._jobs.start(self._start(), "start")
        await self._stop.wait()
        starting.cancel()  # it may wait for the database
        await asyncio.wait({starting})
        self._log.info("supervisor.stopping")
        await self._end()
        self._log.info("supervisor.stopped")
        let_go(loop)
        if self._failure is not None:
            raise self._failure

    async def _start(self) -> None:
        self._model.prepare()
        await self._records.open()
        self._files.remember()
        await self._sockets.open()
        with contextlib.suppress(FileNotFoundError):
            (self._paths.run / "failed.json").unlink()
        self._log.info("supervisor.started", pid=os.getpid(), version=__version__)
        known = stamps(self._watched())
        self._model.start()
        self._helpers.deliver.configure()
        await in_thread(reached)  # on macOS a program tells
        self._helpers.ui.configure()
        self._agents.scan()
        jobs = (self._watch(known), self._poll(), self._poll_model(), self._guard())
        for job in (
            *jobs,
            self._watch_sleep(),
            bytecode.compile_modules(self._paths, self._reaper),
            self._agents.forget_vanished(),
            self._housekeeping.run(),
        ):
            self._jobs.start(job)
        self._folder_access.start()
        self._started = True
        if self._reload_asked:
            self._on_reload()

    async def _end(self) -> None:
        self._sockets.stop_listening()
        await self._stop_children()
        self._sockets.close()  # until here, `status` could say that it stops
        await self._jobs.end()
        await self._records.flush(RECORDS_STOP_S)
        if self._files.database_gone():
            self._failure = await self._files.rescue(self._records, self._housekeeping, self._hurry)
        else:
            self._files.forget()
            with contextlib.suppress(TimeoutError):  # a disk that hangs keeps nobody from the end
                await close(self._records, self._housekeeping, self._hurry)
        self._model.close()

    # --- stopping

    def _on_stop_signal(self) -> None:
        again = self._stop.is_set()
        self._stop.set()
        if again:
            self._hurry.set()
            self._log.warning("supervisor.killing")
            self._agents.kill()
            self._helpers.kill()
            self._workers.managed.kill()
            self._model.managed.kill()

    async def _stop_children(self) -> None:
        """Workers first, so that their last calls are answered; then the model server."""
        grace_s = self._settings.config.supervisor.stop_grace.total_seconds()
        try:
            async with asyncio.timeout(WORKERS_STOP_S + KILLED_S):
                await self._agents.stop(min(grace_s, WORKERS_STOP_S))
        except TimeoutError:
            self._agents.kill()  # what even SIGKILL does not end (disk wait) is left behind
        await asyncio.gather(self._helpers.stop(), self._workers.stop())
        managed = self._model.managed
        managed.stop(
            WorkerState.STOPPED, "the supervisor stops", grace_s=min(grace_s, MODEL_STOP_S)
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MODEL_STOP_S + KILLED_S):
                await managed.gone()

    # --- reacting

    def _on_reload(self, name: str | None = None) -> None:
        if self._stop.is_set():
            return  # it would start again what has just stopped
        if not self._started:
            self._reload_asked = True
            return
        self._log.info("supervisor.reloading")
        self._reload_settings()
        self._model.retry()
        self._helpers.deliver.configure(again=name is None)
        self._agents.reload(name)
        self._jobs.start(self._forgive(*([name] if name else self._agents.slots)))

    def _reload_settings(self) -> None:
        if self._settings.reload(self._model, self._agents, self._housekeeping, self._helpers):
            self._jobs.start(self._forgive(*self._agents.slots))

    async def _forgive(self, *names: str) -> None:
        """Let agents try again whose breaker tripped: a person, or another model, may help."""
        try:
            await self._records.forgive(*names)
        except StorageError as error:
            self._log.error("agent.not_recorded", what=error.what)

    def _changed(self, server: str) -> None:
        if (config := self._settings.config.mcp.get(server)) is not None:
            Pins(server, config, self._paths).forget_seen()
        self._agents.check_users_of(server)

    def _on_wake(self) -> None:
        self._jobs.start(self._control.obey_all())

    async def _poll(self) -> None:
        """The safety net behind the wake-up socket."""
        while True:
            await self._control.obey_all()
            poll_s = self._settings.config.bus.poll.total_seconds()
            await asyncio.sleep(poll_s)  # ends by cancellation

    async def _poll_model(self) -> None:
        while True:
            await asyncio.sleep(MODEL_POLL_S)  # ends by cancellation
            self._model.poll()
            self._helpers.poll()

    async def _watch_sleep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)  # ends by cancellation
            self._reaper.sleep_detector.check()

    async def _guard(self) -> None:
        """Make again what somebody removed of our files; give up without the database."""
        logged = ""
        while True:
            await asyncio.sleep(GUARD_S)  # ends by cancellation
            if (error := self._files.check()) is not None:
                raise error
            try:
                await self._sockets.restore()
                for path in self._model.restore():
                    self._log.warning("file.made_again", path=str(path))
                logged = ""
            except AgentdError as trouble:  # a full disk, say: the next look tries again
                if str(trouble) != logged:
                    self._log.error("files.not_made", what=trouble.what, where=trouble.where)
                logged = str(trouble)

    async def _watch(self, known: dict[Any, Any]) -> None:
        async for files in changes(self._watched(), known, self._stop):
            self._log.info("files.changed", files=sorted(shown(str(path)) for path in files)[:20])
            if self._paths.daemon_file in files:
                self._reload_settings()
            self._agents.files_changed(files - {self._paths.daemon_file})

    def _watched(self) -> list[Any]:
        paths = self._paths
        own = [paths.config, paths.agents_d, paths.agents, paths.baml_src]
        return [*own, shipped() / "agents", shipped() / "baml_src"]

    # --- status

    async def _told(self, use: bool) -> dict[str, Any]:
        document = self.document()
        if not use:
            return document
        return await in_thread(measured, document, self._helpers.hands(), self._usage)

    def document(self) -> dict[str, Any]:
        """Return everything that `agentd status` shows."""
        agents, unshown = self._agents.document()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": iso(self._since),
            "home": str(self._paths.user),
            "stopping": self._stop.is_set(),
            "problem": self._settings.problem or self._agents.problem,
            "refused_folder": self._folder_access.problem,
            "sandbox": self._settings.sandbox(),
            "model": self._model.document(),
            **self._helpers.document(),
            "workers": self._workers.document(),
            "agents": agents,
            "refused_unshown": unshown,
            "events": self._records.document(),
            "storage": {
                "problem": self._records.problem or self._housekeeping.problem,
                **self._housekeeping.document(),
            },
            "log_lines_dropped": log.dropped(),
        }

    def _fail(self, error: AgentdError) -> None:
        """Stop everything in order, for a reason that `run` raises in the end."""
        self._failure = self._failure or error
        self._stop.set()
