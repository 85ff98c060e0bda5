"""Passes bytes on between two connections, both ways, until both have ended."""

import select
import socket

from agentd.process.stop import Cancel

PIECE_BYTES = 65_536


def pump(one: socket.socket, other: socket.socket, cancel: Cancel, idle_s: float) -> None:
    """Pass on what comes. Returns when both have ended, `cancel` came, or none came for `idle_s`.

    Raises:
        OSError: one of them broke.
    """
    ways = (_Way(one, other), _Way(other, one))
    with cancel.bell() as bell:
        while any(way.open for way in ways):
            wanted = {bell: select.POLLIN}
            for sock, event in (way.waits_for for way in ways if way.open):
                wanted[sock] = wanted.get(sock, 0) | event
            poll = select.poll()
            for sock, events in wanted.items():
                poll.register(sock, events)
            if not poll.poll(idle_s * 1000) or cancel.stopped:
                return
            for way in ways:
                way.go_on()


class _Way:
    """One direction. It reads nothing more before what it has is sent."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._held = memoryview(b"")
        self.open = True

    @property
    def waits_for(self) -> tuple[socket.socket, int]:
        """What has to happen before it can go on."""
        return (self._sink, select.POLLOUT) if self._held else (self._source, select.POLLIN)

    def go_on(self) -> None:
        """Do what can be done without waiting."""
        try:
            if self.open and not self._held:
                self._held = memoryview(self._source.recv(PIECE_BYTES))
                if not self._held:
                    self.open = False
                    self._sink.shutdown(socket.SHUT_WR)
            while self._held:
                self._held = self._held[self._sink.send(self._held) :]
        except BlockingIOError:
            pass
