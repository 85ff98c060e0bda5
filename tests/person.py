"""A person who answers, and a supervisor's word on it, for workers that have no supervisor."""

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentd.approval.signature import person_key
from agentd.approval.unanswered import give, looked_up
from agentd.bus import Bus
from agentd.events import Event
from agentd.paths import Paths
from agentd.process.channel import Channel, ChannelClosed
from agentd.process.supervisor_link import SupervisorLink


def believe(event: Event) -> str | None:
    """A `Verify` for sessions: all of it comes from a person."""
    return None


def answer(bus: Bus, paths: Paths, session: int, said: Any) -> int:
    """Answer what a session asks, signed as by a person's command; return the event's id."""
    return give(bus, person_key(paths), session, said)[1]


def vouch(control: socket.socket, paths: Paths, name: str) -> None:
    """Answer a worker's `verify` by its control socket, in a thread, until it ends."""

    def work() -> None:
        channel, link = Channel(control), PersonLink(paths, name)
        with suppress(ChannelClosed):
            while True:
                document, _ = channel.receive()
                channel.send({**link.ask(document)[0], "id": document["id"]})
        channel.close()

    threading.Thread(target=work, daemon=True).start()


class PersonLink(SupervisorLink):
    """Looks up whether a person wrote an event, as a supervisor does, and answers nothing else."""

    def __init__(self, paths: Paths, name: str) -> None:
        super().__init__(None)
        self._paths, self._name = paths, name

    def ask(
        self, document: Mapping[str, Any], deadline_s: float = 0, cancel: Any = None
    ) -> tuple[dict[str, Any], list[int]]:
        """Answer `verify`."""
        assert document["ask"] == "verify", document
        bus = Bus(self._paths.database)
        try:
            key = person_key(self._paths)
            return looked_up(bus, key, self._name, document["event"]), []
        finally:
            bus.close()
