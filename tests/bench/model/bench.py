"""What all phases share: the two running servers, the sizes, and what went wrong on the way."""

from collections.abc import Callable
from pathlib import Path

from .servers import Agentd, Server, ServerDied
from .shape import Shape


class NoAnswer(Exception):
    """agentd gave nothing to measure; says in which phase."""


class Bench:
    """Both servers on one model folder: ours, and the one that it stands beside."""

    def __init__(self, shape: Shape, folder: Path, other: Callable[[Path], Server]) -> None:
        self.shape = shape
        self.folder = folder
        self.other = other(folder)
        self.agentd = Agentd(folder)
        self.servers: tuple[Server, Server] = (self.agentd, self.other)
        self.notes: list[str] = []
        self._by_phase: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Start both, one after the other, and rest. Raises ServerDied."""
        for server in self.servers:
            await server.start()
            await server.idle()

    def close(self) -> None:
        """End both."""
        for server in self.servers:
            server.close()

    async def after(self, server: Server, phase: str, good: int, asked: int) -> bool:
        """Bring a server to rest after its part of a phase; note what it failed to do.

        One that died, or does not come to rest, is started anew: then False.
        """
        if good < asked:
            self.say(phase, f"{server.label}: {good} of {asked} answered in time")
        try:
            if not await server.alive():
                raise ServerDied
            if await server.idle():
                return True
            self.say(phase, f"{server.label}: still busy long after its clients had gone")
        except ServerDied:
            self.say(phase, f"{server.label}: died after {good} requests: {server.said()}")
        await server.restart()
        return False

    def note(self, phase: str) -> str:
        """Return what is to be said of a phase's figures."""
        return "; ".join(self._by_phase.get(phase, ()))

    def say(self, phase: str, text: str) -> None:
        """Note what went wrong in a phase."""
        self._by_phase.setdefault(phase, []).append(text)
        self.notes.append(f"{phase}: {text}")
