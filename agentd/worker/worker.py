"""One agent's process: takes events off its two lanes, a session for each; fires its schedule.

It is woken by its socket, and looks by itself where no byte came (`bus.poll`).

BAML and the agent's own module are imported at the first event: an idle worker stays small.
"""

import math
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.admission.version import Accepted
from agentd.bus import Bus, Opening
from agentd.bus.wake import Ear
from agentd.clock import Clock, SystemClock, iso
from agentd.config.daemon import DaemonConfig
from agentd.errors import (
    AgentdError,
    ConfigError,
    EventRefused,
    LostLane,
    ModelMisconfigured,
    ModelUnavailable,
    PromptTooLong,
    RowRefused,
    SandboxUnavailable,
    Stopped,
    StorageError,
    ToolsChanged,
)
from agentd.events import Event, Lane
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process import crash
from agentd.process.failure import summary
from agentd.process.heart import Heart
from agentd.process.stop import Stop
from agentd.process.supervisor_link import SupervisorLink
from agentd.sessions.session import Dead, Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.states import DeadReason
from agentd.storage.database_files import open_bus
from agentd.storage.storage_retry import StorageRetry
from agentd.worker.own_later import OwnLater
from agentd.worker.persons_word import PersonsWord

if TYPE_CHECKING:
    from agentd.worker.runner import Runner

# Beyond the poll, before an idle worker that does not beat counts as hung: each lane may wait for
# the database's lock (30 s), and a person who holds it must not look like fifty hung workers.
IDLE_GRACE_S = 75.0
LOAD_PROMISE_S = 60.0  # for the agent's module and BAML; its check allowed the module 30 s
MODEL_WAIT_S = 2.0  # after the model server was unavailable; the session then resumes
EAR_S = 5.0  # for the supervisor to make a socket
BUSY_GRACE_S = 30.0  # beyond what a call or a tool promised: recording, parsing, a slow disk


class Worker:
    """One agent's loop over its events."""

    def __init__(
        self,
        accepted: Accepted,
        paths: Paths,
        daemon_config: DaemonConfig,
        heart: Heart,
        log: Logger,
        clock: Clock | None = None,
        crashed: crash.Crash | None = None,
        link: SupervisorLink | None = None,
    ) -> None:
        self.accepted = accepted
        self.config = accepted.config
        self.paths = paths
        self.daemon_config = daemon_config
        self.heart = heart
        self.log = log
        self.link = link or SupervisorLink(None)
        self.clock = clock or SystemClock()
        self.poll_s = daemon_config.bus.poll.total_seconds()
        self.stop = Stop()
        self.retry = StorageRetry(heart, self.stop, log, IDLE_GRACE_S)
        self.bus = self.retry(self._open_bus)
        self.person = PersonsWord(self.link, self.stop.cancel, self._beat)
        self.sessions = Sessions(self.bus, verify=self.person.forged)
        name = accepted.name
        reads = (self.config.subscribe, self.config.triggers["where"])
        self.lanes = (Lane(name, direct=True), Lane(name, False, *reads))
        self.ear = self._ear()
        # Its attempt is still to be taken back: the storage refused.
        self._owed: Session | None = None
        self._runner: Runner | None = None
        self.scratch: Path | None = None  # where temporary files lie, if this process is all ours
        self._logged_wait: dict[str, str] = {}  # by lane, while it waits
        self._logged_deaf = False  # that the wake-up socket is gone
        # Before the first beat, after which the supervisor forgets it.
        if crashed is not None and self.sessions.crashed(name, crashed):
            log.warning("attempt.crashed", why=crashed.why, pid=crashed.pid)

    def run(self) -> None:
        """Answer events until a stop.

        Raises:
            LostLane: another worker of this name is alive.
            DamagedDatabase: only a repair helps. Anything else that the storage has is waited for.
            ConfigError: nothing will help until a person changes something.
        """
        scheduler = None
        name, triggers = self.accepted.name, self.config.triggers
        names = (*filter(None, [triggers["schedule"]]), *triggers["at"], *triggers["watch"])
        # The supervisor did this too, but the worker of the version before may have noted its own
        # schedule since.
        self.retry(lambda: self.bus.schedules.keep_only(name, names))
        if self.config.schedules:
            from agentd.worker.schedule import (
                Scheduler,  # APScheduler: 3 MB, for who has a schedule
            )

            scheduler = Scheduler(name, self.config, self._open_bus, self.clock, self.log)
            self.retry(lambda: scheduler.start(self.bus))

        def one_round() -> float:
            if not self.retry.waiting:  # else its beats say why
                run = scheduler.next_run if scheduler is not None else None
                more = {"next": iso(run)} if run is not None else {}
                self.heart.beat(self.poll_s + IDLE_GRACE_S, "idle", **more)
            self._remake_socket()
            if scheduler is not None:
                scheduler.look(self.bus)
            later_s = later.look(self.bus)
            wait_s = self.work()
            return wait_s if later_s is None else min(wait_s, later_s)

        later = OwnLater(name, self.config.missed, self.clock, self.log)
        try:
            while not self.stop.asked:
                wait_s = self.retry(one_round)
                if wait_s > 0:
                    self._wait(min(wait_s, self.poll_s))
        except Stopped:  # while it waited for the storage
            return
        finally:
            if scheduler is not None:
                scheduler.stop()
            self.ear.close()
            self.bus.close()

    def work(self) -> float:
        """Answer at most one event; return the seconds to wait before looking again."""
        self._refund(self._owed)
        wait_s, held = self.poll_s, False  # whether an event waits on a lane, and may not begin
        for lane in self.lanes:
            event = self._next(lane, held)
            if isinstance(event, float):
                if event == 0.0:
                    return 0
                wait_s = min(wait_s, event)
                continue
            taken = self.sessions.begin(lane, event, self.accepted.code_hash, self.config.limits)
            match taken:
                case Wait():
                    self._log_wait(lane, taken)
                    wait_s, held = min(wait_s, taken.seconds), True
                    continue
                case Dead():
                    self._log_dead(taken, event.id)
                    return 0
                case Session():
                    self._logged_wait.pop(lane.consumer, None)
                    return self.answer(taken)
        return wait_s

    def _next(self, lane: Lane, held: bool) -> Event | float:
        """Return the lane's next event, or the seconds until there may be one: 0, look again."""
        if lane.direct or (batch := self.config.batch) is None:
            return self.bus.next(lane) or math.inf
        if held:  # perhaps the batch before: this one may still grow
            return math.inf
        return self.bus.batches.gather(lane, batch.within, batch.most)

    def answer(self, session: Session) -> float:
        """Run one session to its end; return the seconds to wait before the next event."""
        log = self.log.bind(session_id=session.id, event_id=session.event.id)
        log.info(
            "session.resumed" if session.resumed else "session.started",
            event_type=session.event.event_type,
            attempt=session.attempt,
        )
        started = self.clock.monotonic()
        self._beat(LOAD_PROMISE_S)
        try:
            runner = self._load()
            ending = runner.run(session, self.sessions.journal, log, self._beat, self.person.use)
            from agentd.worker.runner import settle  # loaded by now

            settle(self.sessions.closing, session, ending)
        except Stopped:
            self._refund(session)
            log.info("session.cut", reason="stop")
            return 0
        except (ModelMisconfigured, PromptTooLong, SandboxUnavailable, ToolsChanged) as error:
            return self._rest(session, error, log)
        except ModelUnavailable as error:
            self._refund(session)
            log.warning("session.cut", reason="model unavailable", error=str(error))
            return MODEL_WAIT_S
        except LostLane:
            raise
        except RowRefused as error:  # trying again would be refused again
            self._fail(session, str(error), log)
        except StorageError:
            self._owed = session
            log.warning("session.cut", reason="storage")
            raise
        except ConfigError:
            self.sessions.closing.refund(session)
            raise
        except EventRefused as error:
            # Before the opening was recorded it is the event that makes no sense to the agent;
            # later it is the agent's own publishing that does.
            invalid = None if session.steps else DeadReason.INVALID
            self._fail(session, str(error), log, invalid)
        except AgentdError as error:
            self._fail(session, str(error), log)
        except Exception as error:  # an agent's own code may raise anything
            log.exception("session.raised")
            self._fail(session, summary(error), log)
        else:
            if session.recovered:
                log.info("breaker.closed")
            log.info(
                "session.parked" if ending.question is not None else "session.ended",
                turns=session.turns,
                duration_ms=round((self.clock.monotonic() - started) * 1000, 1),
            )
        return 0

    def _refund(self, session: Session | None) -> None:
        """Take an attempt back; where the storage does not let us, before the next one begins."""
        self._owed = session
        if session is not None:
            self.sessions.closing.refund(session)
            self._owed = None

    def _load(self) -> "Runner":
        """Return what a session needs, loaded at the first event."""
        if self._runner is None:
            from agentd.worker.runner import Runner, use_scratch

            if self.scratch is not None:
                use_scratch(self.scratch)
            self._runner = Runner(
                self.accepted, self.paths, self.daemon_config, self.bus, self.clock, self.link
            )
            self.stop.also(self._runner.interrupt)
        return self._runner

    def _fail(
        self, session: Session, error: str, log: Logger, reason: DeadReason | None = None
    ) -> None:
        outcome = self.sessions.closing.fail(session, error, reason=reason)
        if isinstance(outcome, Dead):
            self._log_dead(outcome, session.event.id)
        else:
            log.warning("session.failed", error=error, retry_s=round(outcome.seconds, 3))
            if outcome.why == "breaker":
                log.error("breaker.opened", error=error, retry_s=round(outcome.seconds, 3))

    def _rest(self, session: Session, error: AgentdError, log: Logger) -> float:
        """Let the agent rest until somebody corrects what is wrong; no event is to blame."""
        self._owed = session
        wait = self.sessions.closing.rest(session, f"{error.what}; {error.where}: {error.hint}")
        self._owed = None
        log.error("breaker.opened", error=str(error), retry_s=round(wait.seconds, 3))
        return MODEL_WAIT_S

    def _log_dead(self, dead: Dead, event_id: int) -> None:
        self.log.error(
            "event.dead",
            event_id=event_id,
            session_id=dead.session_id,
            letter=dead.letter_id,
            reason=dead.reason.value,
            error=dead.error,
        )

    def _log_wait(self, lane: Lane, wait: Wait) -> None:
        if self._logged_wait.get(lane.consumer) != wait.why:  # once, not at every poll
            self._logged_wait[lane.consumer] = wait.why
            self.log.info(
                "lane.waits", lane=lane.consumer, reason=wait.why, wait_s=round(wait.seconds, 1)
            )

    def _beat(self, promise_s: float) -> None:
        self.heart.beat(promise_s + BUSY_GRACE_S, "busy")

    def _wait(self, seconds: float) -> None:
        """Wait for a wake-up, a stop, or `seconds`."""
        ready, _, _ = select.select([self.ear.fileno(), self.stop.fileno()], [], [], seconds)
        if self.ear.fileno() in ready:
            self.ear.drain()

    def _remake_socket(self) -> None:
        """Make the wake-up socket again where somebody removed it; until then the poll serves."""
        if self.ear.in_place:
            self._logged_deaf = False
            return
        try:
            ear = self._ear()
        except Stopped:
            raise
        except AgentdError as error:  # its folder is gone as well: the supervisor makes that
            if not self._logged_deaf:
                self.log.warning("socket.removed", path=str(self.ear.path), why=error.what)
            self._logged_deaf = True
            return
        self.ear.close()
        self.ear = ear
        self.log.warning("socket.made_again", path=str(ear.path))

    def _ear(self) -> Ear:
        """Return a socket to be woken on; in its sandbox a worker can make none."""
        if not self.link.there:
            return self.bus.doorbell.ear(self.accepted.name)
        _, fds = self.link.ask({"ask": "ear"}, EAR_S, self.stop.cancel)
        return Ear(self.paths.wake, self.accepted.name, socket.socket(fileno=fds[0]))

    def _open_bus(self) -> Bus:
        opening = Opening(create=False, full_sync=self.daemon_config.bus.fullfsync)
        return open_bus(self.paths, opening, self.clock)
