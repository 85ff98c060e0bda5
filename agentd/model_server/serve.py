"""The parts put together: the engine's thread, its watchdog, HTTP, the heartbeat, and the end."""

import argparse
import asyncio
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agentd.errors import AgentdError
from agentd.logs import logger as log
from agentd.model_server.engine import malloc
from agentd.model_server.engine.thread import EngineThread
from agentd.model_server.engine.watchdog import EXIT_ENGINE, EXIT_STALLED, Watchdog
from agentd.model_server.http.app import Server
from agentd.model_server.http.handed_over import HandedOver
from agentd.model_server.http.server import http_server
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.protocols import Engine, Language
from agentd.process.channel import Channel
from agentd.process.heart import STOPPING, Heart
from agentd.states import Exit

STOP_S = 3.0  # from SIGTERM to the end
BEAT_S = 5.0
PROMISE_S = 30.0
TRIM_S = 30.0


class Serving:
    """One model, served until a signal comes or the engine ends.

    `options` are those of the command line, `token` returns the one in force, `control` leads to
    the supervisor, and `caches` is where prompt caches are kept over a
    restart; `on_error` is told of what nobody expected.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        folder: Path,
        token: Callable[[], str],
        control: Channel | None,
        *,
        caches: Path,
        fast_blas: bool,
        logger: log.Logger,
        heart: Heart,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._options, self._folder, self._caches = options, folder, caches
        self._fast_blas = fast_blas
        self._logger, self._heart, self._on_error = logger, heart, on_error
        self._ended: list[BaseException] = []
        self._runner = EngineThread(
            lambda: ModelLanguage(folder, window=options.window),
            self._load_engine,
            logger,
            queue_size=options.queue,
            on_end=self._end,
            unload_after_s=options.unload_after,
        )
        self._watchdog = Watchdog(
            self._runner.progress,
            stall_s=options.stall,
            load_s=options.load_limit,
            on_stall=self._stalled,
        )
        server = Server(
            self._runner,
            name=options.name or options.model,
            token=token,
            call_deadline_s=options.call_deadline,
            quiet_s=lambda: self._watchdog.quiet_s,
        )
        self._control = control
        self._handed_over: HandedOver | None = None
        self._http = http_server(
            server.build(), knows=server.knows, stop_s=STOP_S, on_start=self._take_over
        )

    async def run(self, sock: socket.socket) -> AgentdError | int:
        """Serve; return the exit code, or why the model cannot be served."""
        if not self._options.saved_cache_bytes:
            for file in self._caches.parent.glob(f"*{self._caches.stem}*.safetensors"):
                file.unlink(missing_ok=True)  # and what a kill left half written
        loop = self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        self._runner.start()
        self._watchdog.start()
        beating = asyncio.create_task(beat(self._heart, self._runner))
        beating.add_done_callback(self._beaten)
        await self._http.serve(sockets=[sock])
        beating.cancel()
        await asyncio.to_thread(self._runner.stop, STOP_S)  # it may be saving the prompt caches
        self._watchdog.stop()
        if not self._ended:
            self._heart.beat(PROMISE_S, STOPPING)
            return Exit.OK
        return self._ended[0] if isinstance(self._ended[0], AgentdError) else EXIT_ENGINE

    def _take_over(self) -> None:
        def agent_came() -> None:
            self._runner.agents_here = True

        if self._control is not None:
            self._handed_over = HandedOver(self._control, self._http, agent_came)

    def _load_engine(self, language: Language) -> Engine:
        from agentd.model_server.engine.mlx import MlxEngine  # 2 s, in the engine's thread

        saved_bytes = self._options.saved_cache_bytes
        return MlxEngine(
            self._folder,
            language,
            fast_blas=self._fast_blas,
            cache_bytes=self._options.cache_bytes,
            saved=self._caches if saved_bytes else None,
            saved_bytes=saved_bytes,
        )

    def _stop(self) -> None:
        self._http.should_exit = True
        # Answers that are under way end now, with an error that says so.
        threading.Thread(target=self._runner.stop, args=(STOP_S,), daemon=True).start()

    def _end(self, error: BaseException) -> None:
        self._ended.append(error)
        self._loop.call_soon_threadsafe(self._stop)

    def _stalled(self, seconds: float) -> None:
        self._logger.error("engine.stalled", quiet_s=seconds)
        log.close()
        os._exit(EXIT_STALLED)

    def _beaten(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)
            self._end(error)


async def beat(heart: Heart, runner: EngineThread) -> None:
    """Promise the next beat. That the engine moves is the watchdog's business, not a beat's."""
    trimmed, frozen = time.monotonic(), False
    while True:
        if runner.loaded and not frozen:
            # What is loaded stays: the collector need not look at it, and so looks at the rest far
            # more often. A failed request's frames hold its tokens until then.
            gc.collect()
            gc.freeze()
        frozen = runner.loaded  # an engine that goes thaws it
        if time.monotonic() - trimmed > TRIM_S:
            await asyncio.to_thread(malloc.trim)
            trimmed = time.monotonic()
        progress = runner.progress
        state = "loading" if not progress.ready else "busy" if progress.busy else "idle"
        heart.beat(PROMISE_S, state, waiting=runner.waiting(), running=runner.running())
        await asyncio.sleep(BEAT_S)
