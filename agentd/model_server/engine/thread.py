"""The engine's thread: takes calls from the queue, steps the engine, isolates failures."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from agentd.clock import Clock, SystemClock
from agentd.errors import AgentdError
from agentd.model_server.calls import Advance, Call, EngineBroken, Full, Piece, Refused
from agentd.model_server.engine.metrics import Metrics
from agentd.model_server.engine.queue import FairQueue
from agentd.model_server.engine.request_log import Log, log_finished, milliseconds
from agentd.model_server.engine.watchdog import Progress
from agentd.model_server.language.text_stream import TextStream
from agentd.model_server.protocols import Engine, Language

ASLEEP_S = 10.0  # between two looks at busy calls, far above a step: this process was stopped
FAILURES_MAX = 5  # failures of steps or calls, without a token in between, and it is given up


class EngineThread:
    """Owns the engine, its thread and the queue. The other methods may be called from any thread.

    Loading happens in the engine's thread: first the tokenizer, which is quick, then the engine.
    `on_end(error)` is called from the engine's thread when that cannot go on: AgentdError for a
    model that cannot be loaded, anything else for a broken engine.
    """

    def __init__(
        self,
        load_language: Callable[[], Language],
        load_engine: Callable[[Language], Engine],
        log: Log,
        *,
        queue_size: int = 64,
        on_end: Callable[[BaseException], None],
        unload_after_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._load_language = load_language
        self._load_engine = load_engine
        self.language: Language | None = None  # None until the tokenizer is read
        self.progress = Progress()
        # Around the deliveries of a step, so that their receiver may take them as one.
        self.together: Callable[[], AbstractContextManager[None]] = nullcontext
        self.agents_here = False  # one has come: guests then get half of the slots
        self._metrics = Metrics()
        self._unload_after_s = unload_after_s
        self._log = log
        self._clock = clock or SystemClock()
        self._queue = FairQueue(queue_size)
        self._wake = threading.Condition()
        self._stopping = False
        self._on_end = on_end
        self._engine: Engine | None = None
        self._active: dict[int, tuple[Call, TextStream]] = {}
        self._failures = 0
        self._looked_at = 0.0  # monotonic: at the deadlines of calls
        self._pace_s = 5.0  # smoothed seconds of a call in its slot, for Retry-After
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start loading; calls may be submitted at once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End all calls with an error that says so, within a step, and wait for the thread."""
        with self._wake:
            self._stopping = True
            waiting = self._queue.clear()  # the engine's thread may be loading for minutes
            self._wake.notify_all()
        self._refuse(waiting)
        self._thread.join(timeout_s)

    def submit(self, call: Call) -> None:
        """Queue a call.

        Raises:
            Full: as many wait already as may, or the server is stopping.
        """
        with self._wake:
            if self._stopping:
                raise Full("the server is stopping", retry_after_s=5, code="stopping")
            call.queued_at = self._clock.monotonic()
            # Room for a few more calls will be there when a few have ended.
            retry_after_s = max(1, min(30, round(self._pace_s)))
            displaced = self._queue.put(call, retry_after_s=retry_after_s)
            self._wake.notify_all()
        if displaced is not None:
            full = Full("the queue is full of others that go first", retry_after_s=retry_after_s)
            self._finish(displaced, Piece(error=full))

    def cancel(self, call: Call) -> None:
        """Say that nobody waits for this call any more. Its slot is free within a step."""
        with self._wake:
            call.cancelled = True
            # At once: while the model loads, or in a long step, it would keep others out.
            gone = self._queue.remove_cancelled()
            self._wake.notify_all()
        for waiting in gone:
            self._finish(waiting, Piece(cancelled=True))

    @property
    def stopping(self) -> bool:
        """Whether the end has begun, asked for or not."""
        return self._stopping

    def waiting(self) -> int:
        """Return how many calls wait for a slot."""
        return len(self._queue)

    def running(self) -> int:
        """Return how many calls have a slot."""
        return len(self._active)

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._engine is not None

    def report(self) -> str:
        """Return the metrics in Prometheus' text format."""
        engine = self._engine
        return self._metrics.render(
            {
                "queue_length": self.waiting(),
                "running": self.running(),
                "loaded": float(engine is not None),
                "cache_bytes": engine.cache_bytes() if engine is not None else 0,
                **(engine.counters() if engine is not None else {}),
            }
        )

    # -- the engine's thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                engine = self._load()
                while self._turn(engine):
                    pass
                self._unload(engine)
                del engine  # and with it the weights
                self._wait_for_work()
        except BaseException as error:  # the top of this thread: whatever it is ends the process
            self._end(error)

    def _load(self) -> Engine:
        self.progress.ready, self.progress.busy = False, True  # loading has a limit of its own
        started = self._clock.monotonic()
        self.language = self.language or self._load_language()
        self.progress.step()
        engine = self._engine = self._load_engine(self.language)
        self.progress.step()
        self.progress.ready = True
        self._log.info("model.ready", duration_ms=milliseconds(self._clock.monotonic() - started))
        return engine

    def _turn(self, engine: Engine) -> bool:
        """Do one round: admissions, one engine step, deliveries. False: stop, or unload."""
        if not self._active and not self._wait_for_work(self._unload_after_s):
            return False
        if self._stopping:
            self._drop_all()
            return False
        self.progress.busy = True
        while self._admit_next(engine):
            pass
        self._check_active(engine)
        if self._active:
            self._step(engine)
        return True

    def _wait_for_work(self, timeout_s: float | None = None) -> bool:
        """Return when a call waits or the server stops; False when neither came in time."""
        with self._wake:
            self.progress.busy = False
            return self._wake.wait_for(lambda: self._stopping or len(self._queue) > 0, timeout_s)

    def _unload(self, engine: Engine) -> None:
        """Let go of the model and what it computed, the latter kept on disk."""
        self._engine = None
        try:
            engine.save()
        except Exception as error:  # a start without them is only slower
            self._log.error("cache.not_saved", what=str(error), exc_info=error)
        if not self._stopping:
            engine.close()
            self._log.info("model.unloaded")

    def _admit_next(self, engine: Engine) -> bool:
        """Give the next call a slot, if there is one for it."""
        with self._wake:
            call = self._queue.next(guests=self._guest_fits(engine))
            if call is None:
                return False
            try:
                fits: bool | Exception = engine.fits(call)
            except Refused as error:
                fits = error
            if fits is False:
                return False
            self._queue.take(call)
        call.admitted_at = self._clock.monotonic()
        self._active[call.number] = (call, TextStream(call.stop))
        if isinstance(fits, Exception):
            self._fail(call, fits)
            return True
        call.emit(Piece(admitted=True))
        try:
            engine.admit(call)
        except Exception as error:  # this call's own fault must not be the others'
            self._fail(call, error)
        return True

    def _guest_fits(self, engine: Engine) -> bool:
        most = max(1, engine.slots // 2) if self.agents_here else engine.slots
        return sum(call.guest for call, _ in self._active.values()) < most

    def _check_active(self, engine: Engine) -> None:
        """Take away the slots of calls that are cancelled or too late."""
        now, before = self._clock.monotonic(), self._looked_at
        self._looked_at = now
        for call, _ in list(self._active.values()):
            if now - before > ASLEEP_S and call.admitted_at and call.admitted_at <= before:
                call.admitted_at += now - before  # nobody's deadline passes in a stopped process
            if call.cancelled:
                engine.remove(call)
                self._finish(call, Piece(cancelled=True))
            elif now - (call.admitted_at or now) > call.deadline_s:
                engine.remove(call)
                late = Refused(
                    f"not finished {call.deadline_s:g} s after admission",
                    status=504,
                    code="deadline",
                )
                self._finish(call, Piece(error=late))

    def _step(self, engine: Engine) -> None:
        try:
            advances = engine.step()
        except EngineBroken:
            raise
        except Exception as error:  # a failed step spoils all rows in it: they begin again
            self._failed(error)
            self._log.error("step.failed", calls=len(self._active), exc_info=error)
            advances = engine.recover(error)
        else:
            self.progress.step()
        with self.together():
            for advance in advances:
                self._deliver(engine, advance)

    def _deliver(self, engine: Engine, advance: Advance) -> None:
        call = advance.call
        entry = self._active.get(call.number)
        if entry is None or self.language is None:
            return
        text_stream = entry[1]
        if advance.error is not None:
            self._fail(call, advance.error)
            if not isinstance(advance.error, Refused):
                self._failed(advance.error)
            return
        if advance.tokens:
            self._failures = 0
            now = self._clock.monotonic()
            if call.last_token_at is not None:
                self._metrics.decode_gap.observe(now - call.last_token_at)
            call.first_token_at = call.first_token_at or now
            call.last_token_at = now
        data = self.language.decode(advance.tokens) if advance.tokens else b""
        text = text_stream.feed(data, last=advance.finish is not None)
        if text_stream.stopped and advance.finish is None:
            engine.remove(call)
            self._finish(call, Piece(text, finish="stop", logprobs=advance.logprobs))
        elif advance.finish is not None:
            reason = "stop" if text_stream.stopped else advance.finish
            self._finish(call, Piece(text, finish=reason, logprobs=advance.logprobs))
        elif text or advance.logprobs:
            call.emit(Piece(text, logprobs=advance.logprobs))

    def _failed(self, error: Exception) -> None:
        """Count a failure of the engine's. Raises EngineBroken when there is nothing else."""
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            raise EngineBroken(f"{FAILURES_MAX} failures and not a token in between") from error

    def _fail(self, call: Call, error: Exception) -> None:
        if isinstance(error, Refused):
            self._finish(call, Piece(error=error))
            return
        self._log.error("request.failed", agent=call.agent, request=call.number, exc_info=error)
        failed = Refused(
            f"the engine failed: {type(error).__name__}", status=500, code="engine_error"
        )
        self._finish(call, Piece(error=failed))

    def _finish(self, call: Call, piece: Piece) -> None:
        self._active.pop(call.number, None)
        now = self._clock.monotonic()
        in_slot = now - (call.admitted_at or now)
        if piece.finish:
            self._pace_s += (in_slot - self._pace_s) / 8
        outcome = piece.finish or ("cancelled" if piece.cancelled else "error")
        self._metrics.finished(call, outcome, now)
        log_finished(self._log, call, piece.error.code if piece.error else outcome, now)
        call.emit(piece)

    def _drop_all(self) -> None:
        self._refuse([*self._queue.clear(), *(call for call, _ in list(self._active.values()))])

    def _refuse(self, calls: Sequence[Call]) -> None:
        stopping = Full("the server is stopping", retry_after_s=5, code="stopping")
        for call in calls:
            self._finish(call, Piece(error=stopping))

    def _end(self, error: BaseException) -> None:
        with self._wake:
            self._stopping = True
        if not isinstance(error, AgentdError):
            self._log.error("engine.broken", exc_info=error)
        self._drop_all()
        self._on_end(error)
