"""A person who answers, and a supervisor's word on it, for workers that have no supervisor."""

import asyncio
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from agentd.approval.kept import use
from agentd.approval.signature import person_key
from agentd.approval.unanswered import give, looked_up
from agentd.bus import Bus
from agentd.bus.wake import listening
from agentd.config.last_good import effective_config
from agentd.events import Event
from agentd.paths import Paths
from agentd.process.channel import Channel, ChannelClosed, close_all
from agentd.process.supervisor_link import SupervisorLink
from agentd.supervisor import external_model
from agentd.supervisor.requests import Asker, Handler


def believe(event: Event) -> str | None:
    """A `Verify` for sessions: all of it comes from a person."""
    return None


def answer(bus: Bus, paths: Paths, session: int, said: Any) -> int:
    """Answer what a session asks, signed as by a person's command; return the event's id."""
    return give(bus, person_key(paths), session, said)[1]


def vouch(control: socket.socket, paths: Paths, name: str) -> None:
    """Answer a worker's control socket as its supervisor does, in a thread, until it ends."""
    link = PersonLink(paths, name)
    handlers = external_model.handlers(lambda: effective_config(paths).model, paths)

    def reply(document: dict[str, Any]) -> tuple[dict[str, Any], Sequence[int]]:
        if document["ask"] == "ear":
            with listening(paths.wake, name) as sock:
                return {}, [os.dup(sock.fileno())]
        if (handler := handlers.get(document["ask"])) is not None:
            return asyncio.run(_answered(handler, Asker(name, "", 0), document))
        return link.ask(document)

    def work() -> None:
        channel = Channel(control)
        with suppress(ChannelClosed):
            while True:
                document, _ = channel.receive()
                told, fds = reply(document)
                channel.send({"ok": True, **told, "id": document["id"]}, fds)
                close_all(list(fds))
        channel.close()

    threading.Thread(target=work, daemon=True).start()


async def _answered(
    handler: Handler, asker: Asker, document: dict[str, Any]
) -> tuple[dict[str, Any], Sequence[int]]:
    return await handler(asker, document)


class PersonLink(SupervisorLink):
    """Looks up whether a person wrote an event, as a supervisor does; it starts nothing."""

    def __init__(self, paths: Paths, name: str) -> None:
        super().__init__(None)
        self._paths, self._name = paths, name

    def ask(
        self, document: Mapping[str, Any], deadline_s: float = 0, cancel: Any = None
    ) -> tuple[dict[str, Any], list[int]]:
        """Answer `verify`; a sandbox there always is."""
        if document["ask"] == "sandbox":
            return {}, []
        assert document["ask"] == "verify", document
        bus = Bus(self._paths.database)
        try:
            key, more = person_key(self._paths), (partial(use, self._paths),)
            return looked_up(bus, key, self._name, document["event"], *more[: document["use"]]), []
        finally:
            bus.close()
