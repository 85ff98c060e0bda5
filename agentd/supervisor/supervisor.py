"""`agentd run`: starts everything in order; reacts to signals, files, commands; stops in order."""

import asyncio
import contextlib
import json
import os
import random
import signal
from typing import Any

from agentd import __version__
from agentd.bus import Opening
from agentd.bus.dead import short_error
from agentd.clock import Clock, iso
from agentd.config.daemon import DaemonConfig, load_daemon
from agentd.config.last_good import keep
from agentd.errors import AgentdError, ConfigError, DamagedDatabase, StorageError, shown
from agentd.events import Event
from agentd.logs import logger as log
from agentd.macos.consent import Consent
from agentd.paths import Paths, shipped
from agentd.process.jobs import Jobs
from agentd.process.lock import LockFile
from agentd.process.stop import ends_on_hangup, stop_at_once
from agentd.states import WorkerState
from agentd.supervisor.agents import Agents
from agentd.supervisor.argv import Commands
from agentd.supervisor.checks import Admissions, Problem
from agentd.supervisor.children import TICK_S, Managed, Reaper
from agentd.supervisor.home_files import Files
from agentd.supervisor.housekeeping import Housekeeping
from agentd.supervisor.model import NAME as MODEL
from agentd.supervisor.model import ModelHost
from agentd.supervisor.records import Records
from agentd.supervisor.reload import changes, stamps
from agentd.supervisor.restart import Ended, Life, Rules
from agentd.supervisor.sockets import Sockets

COMMAND_MAX_AGE_S = 60.0  # an older command is nobody's wish any more
GUARD_S = 1.0  # between looks whether this home is still ours
MODEL_LOOK_S = 2.0  # between looks for a model that is not pulled yet; no looks otherwise
# A stop takes at most 10 s in all, whatever stop_grace says: launchd and people wait for it.
WORKERS_STOP_S = 4.5
MODEL_STOP_S = 3.0
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
        self._paths, self._config, self._clock, self._log = paths, config, clock, logger
        self._since = clock.now()
        self._problem: Problem | None = None  # of agentd.toml as it is now
        self._accept(problem)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # asked to stop again while it stops
        self._started = self._reload_asked = False
        self._failure: AgentdError | None = None
        self._obeying = asyncio.Lock()
        self._jobs = Jobs(logger, self._fail)
        self._reaper = Reaper(clock)
        opening = Opening(full_sync=config.bus.fullfsync)
        self._records = Records(paths, clock, logger, opening, self._jobs)
        self._housekeeping = Housekeeping(
            paths, config, self._records.announce, log=logger, clock=clock
        )
        self._files = Files(paths, lock, clock, logger)
        self._sockets = Sockets(paths, self._answer_status, self._on_wake, logger)
        self._consent = Consent(paths, logger)
        rules = Rules.of(config.supervisor)
        self._agents = Agents(
            paths,
            commands,
            rules,
            self._records,
            Admissions(paths, commands, self._reaper, clock),
            self._reaper,
            self._changed,
            self._jobs,
            log=logger,
            clock=clock,
        )
        self._model = ModelHost(
            paths,
            config,
            commands,
            Life(rules, clock, random.Random()),
            self._reaper,
            self._changed,
            log=logger,
            clock=clock,
        )

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
        _let_go(loop)
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
        self._agents.scan()
        jobs = (self._watch(known), self._poll(), self._look_for_model(), self._guard())
        for job in (*jobs, self._stay_awake(), self._agents.forget(), self._housekeeping.run()):
            self._jobs.start(job)
        self._consent.start()
        self._started = True
        if self._reload_asked:
            self._on_reload()

    async def _end(self) -> None:
        self._sockets.deaf()
        await self._stop_children()
        self._sockets.close()  # until here, `status` could say that it stops
        await self._jobs.end()
        await self._records.flush(RECORDS_STOP_S)
        if self._files.database_gone():
            self._failure = await self._files.rescue(self._records, self._housekeeping, self._hurry)
        else:
            self._files.forget()
        self._records.close()
        self._model.close()

    # --- stopping

    def _on_stop_signal(self) -> None:
        again = self._stop.is_set()
        self._stop.set()
        if again:
            self._hurry.set()
            self._log.warning("supervisor.killing")
            self._agents.kill()
            self._model.managed.kill()

    async def _stop_children(self) -> None:
        """Workers first, so that their last calls are answered; then the model server."""
        grace_s = self._config.supervisor.stop_grace.total_seconds()
        try:
            async with asyncio.timeout(WORKERS_STOP_S + KILLED_S):
                await self._agents.stop(min(grace_s, WORKERS_STOP_S))
        except TimeoutError:
            self._agents.kill()  # what even SIGKILL does not end (disk wait) is left behind
        managed = self._model.managed
        managed.stop(
            WorkerState.STOPPED, "the supervisor stops", grace_s=min(grace_s, MODEL_STOP_S)
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MODEL_STOP_S + KILLED_S):
                await managed.gone()

    # --- reacting

    def _changed(self, managed: Managed, ended: Ended | None) -> None:
        """A child changed its state: log it, and tell the bus where agents are concerned."""
        life, name = managed.life, managed.name
        state = life.state
        write = self._log.warning if ended in (Ended.CRASHED, Ended.PARKED) else self._log.info
        keys = {"reason": life.reason, "pid": managed.pid, "exit": managed.code}
        shown = {key: value for key, value in keys.items() if value not in (None, "")}
        write("worker.state", agent=name, state=state.value, restarts=life.restarts, **shown)
        if name == MODEL:
            return
        if ended is Ended.PARKED and managed.damaged and managed.problem:
            self._fail(DamagedDatabase(**managed.problem))
        if state is WorkerState.RUNNING and ended is None:
            slot = self._agents.slots.get(name)
            version = slot.version if slot else ""
            self._tell("agent.started", agent=name, version=version, pid=managed.pid)
        if ended in (Ended.CRASHED, Ended.PARKED):
            code = managed.code
            self._tell(
                "agent.crashed",
                agent=name,
                exit=code if code is not None and code >= 0 else None,
                signal=-code if code is not None and code < 0 else None,
                restarts=life.restarts,
                reason=short_error(life.reason),
            )
        if ended is Ended.PARKED:
            self._tell("agent.parked", agent=name, reason=short_error(life.reason))

    def _tell(self, event_type: str, **payload: Any) -> None:
        self._records.announce(event_type, payload)

    def _on_reload(self, name: str | None = None) -> None:
        if self._stop.is_set():
            return  # it would start again what has just stopped
        if not self._started:
            self._reload_asked = True
            return
        self._log.info("supervisor.reloading")
        self._reload_config()
        self._model.retry()
        self._agents.reload(name)
        self._jobs.start(self._forgive(*([name] if name else self._agents.slots)))

    async def _forgive(self, *names: str) -> None:
        """Let agents try again whose breaker tripped: a person, or another model, may help."""
        try:
            await self._records.forgive(*names)
        except StorageError as error:
            self._log.error("agent.not_recorded", what=error.what)

    def _on_wake(self) -> None:
        self._jobs.start(self._take_commands())

    async def _poll(self) -> None:
        """The safety net behind the wake-up socket."""
        while True:
            await self._take_commands()
            await asyncio.sleep(self._config.bus.poll.total_seconds())  # ends by cancellation

    async def _look_for_model(self) -> None:
        while True:
            await asyncio.sleep(MODEL_LOOK_S)  # ends by cancellation
            self._model.look_again()

    async def _stay_awake(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)  # ends by cancellation
            self._reaper.awake.look()

    async def _guard(self) -> None:
        """Make again what somebody removed of our files; give up without the database."""
        told = ""
        while True:
            await asyncio.sleep(GUARD_S)  # ends by cancellation
            if (error := self._files.look()) is not None:
                raise error
            try:
                await self._sockets.look()
                for path in self._model.restore():
                    self._log.warning("file.made_again", path=str(path))
                told = ""
            except StorageError as trouble:  # a full disk, say: the next look tries again
                if str(trouble) != told:
                    self._log.error("files.not_made", what=trouble.what, where=trouble.where)
                told = str(trouble)

    async def _watch(self, known: dict[Any, Any]) -> None:
        async for files in changes(self._watched(), known, self._stop):
            self._log.info("files.changed", files=sorted(shown(str(path)) for path in files)[:20])
            if self._paths.daemon_file in files:
                self._reload_config()
            self._agents.files_changed(files - {self._paths.daemon_file})
            self._consent.look_again()

    def _watched(self) -> list[Any]:
        paths = self._paths
        own = [paths.config, paths.agents_d, paths.agents, paths.baml_src]
        return [*own, shipped() / "agents", shipped() / "baml_src"]

    # --- commands

    async def _take_commands(self) -> None:
        try:
            async with self._obeying:  # one after the other, in their order
                while (event := await self._records.next_command()) is not None:
                    if not self._stop.is_set():
                        await self._obey(event)
        except DamagedDatabase:
            raise
        except AgentdError as error:  # also a lane that a person's SQL moves under us
            self._log.error("commands.delayed", error=error.what)

    async def _obey(self, event: Event) -> None:
        name = event.payload.get("agent")
        age_s = (self._clock.now() - event.created_at).total_seconds()
        keys = {"type": event.event_type, "event_id": event.id, "target": name}
        if age_s > COMMAND_MAX_AGE_S:
            self._log.warning("command.expired", age_s=round(age_s), **keys)
            return
        self._log.info("command", **keys)
        match event.event_type, name:
            case "agentd.reload", (None | str()):
                self._on_reload(name)
            case (("agentd.resume" | "agentd.restart"), "model"):
                self._model.retry()
                if event.event_type == "agentd.restart":
                    self._model.managed.restart()
            case "agentd.pause", str():
                await self._agents.pause(name)
            case "agentd.resume", str():
                await self._agents.resume(name)
            case "agentd.restart", str():
                self._agents.restart(name)
            case _:
                self._log.warning("command.unknown", **keys)

    # --- configuration

    def _reload_config(self) -> None:
        """Apply agentd.toml as it is now; a wrong one changes nothing."""
        try:
            new = load_daemon(self._paths.daemon_file)
            self._model.reconfigure(new)
        except (ConfigError, StorageError) as error:
            self._accept(error)
            return
        repaired = self._problem is not None
        old, self._config = self._config, new
        self._accept(None)
        changed = [key for key in type(new).model_fields if getattr(new, key) != getattr(old, key)]
        if repaired or changed:
            self._agents.configured(everyone="model" in changed)
            self._jobs.start(self._forgive(*self._agents.slots))
        if not changed:
            return
        log.set_limits(new.logs)
        self._housekeeping.configure(new)
        self._agents.set_rules(Rules.of(new.supervisor))
        self._model.managed.life.rules = Rules.of(new.supervisor)
        # Workers and model server read these tables when they start.
        later = [key for key in changed if key in ("logs", "bus")]
        self._log.info("config.reloaded", changed=changed, workers_at_their_next_start=later)

    def _accept(self, problem: AgentdError | None) -> None:
        """Keep agentd.toml for the children and the next start, or say what is wrong with it."""
        if problem is not None:
            self._problem = problem.document()
            self._log.error("config.refused", **self._problem)
            return
        self._problem = None
        try:
            keep(self._paths)
        except OSError as error:  # tried again at the next start; until then an older one is kept
            self._log.error("config.not_kept", what=str(error))

    # --- status

    async def _answer_status(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A reader that never reads is dropped: the document fits the socket's buffer or waits.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                writer.write(json.dumps(self.document()).encode())
                await writer.drain()
        writer.close()

    def document(self) -> dict[str, Any]:
        """Return everything that `agentd status` shows."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": iso(self._since),
            "home": str(self._paths.user),
            "stopping": self._stop.is_set(),
            "problem": self._problem or self._agents.problem,
            "refused_folder": self._consent.problem,
            "model": self._model.document(),
            "agents": self._agents.document(),
            "refused_unshown": self._agents.unshown,
            "events": {
                "waiting": self._records.waiting,
                "lost": self._records.lost,
                "error": self._records.problem["what"] if self._records.problem else "",
            },
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


def _let_go(loop: asyncio.AbstractEventLoop) -> None:
    """Let a signal end the process at once: all is over.

    The loop closes the descriptor that signals are written to before it gives up its handlers, and
    a signal in between would be an error on the terminal.
    """
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in numbers:
            loop.remove_signal_handler(number)
        stop_at_once()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
