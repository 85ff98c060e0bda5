"""The parts put together: HTTP, the heartbeat, the streams of open pages, and the end."""

import asyncio
import signal
import socket

from agentd.clock import SystemClock
from agentd.model_server.http.server import http_server
from agentd.paths import Paths
from agentd.process.heart import Heart
from agentd.process.supervisor_link import SupervisorLink
from agentd.ui.access import Access, Door
from agentd.ui.acting import Acting
from agentd.ui.live_stream import LiveStream
from agentd.ui.page_parts import PageParts
from agentd.ui.page_reader import PageReader
from agentd.ui.rendering import Rendering
from agentd.ui.routes import application

BEAT_S = 2.0
PROMISE_S = 30.0
STOP_S = 2.0


class PageServer:
    """The page, served at a socket that listens, until a signal comes."""

    def __init__(
        self, paths: Paths, listening: socket.socket, link: SupervisorLink, heart: Heart
    ) -> None:
        self._paths, self._listening = paths, listening
        self._link, self._heart = link, heart

    async def run(self) -> None:
        """Serve.

        Raises:
            AgentdError: the supervisor gives no key, or the database cannot be read.
        """
        reading = PageReader(self._paths, self._link)
        access = Access(await reading.key(), self._listening.getsockname()[1], SystemClock())
        live = LiveStream(reading)
        await reading.open()
        acting = Acting(reading)
        parts = PageParts(reading, Rendering(access, acting), acting, live)
        app = Door(application(parts), access, reading.version)
        http = http_server(app, knows=access.knows, stop_s=STOP_S)

        def stop() -> None:
            http.should_exit = True
            live.end()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        beating = asyncio.create_task(self._beat(access, live))
        await http.serve(sockets=[self._listening])
        beating.cancel()
        reading.close()

    async def _beat(self, access: Access, live: LiveStream) -> None:
        while True:
            if live.watched:
                access.looked()
            idle_s = round(access.idle_s, 1)
            self._heart.beat(PROMISE_S, "shown" if live.watched else "idle", idle_s=idle_s)
            await asyncio.sleep(BEAT_S)  # ends by cancellation
