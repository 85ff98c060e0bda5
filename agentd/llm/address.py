"""Where a model server is, and what speaks against a call to it."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from agentd.clock import SystemClock
from agentd.errors import AgentdError, ModelUnavailable, Stopped
from agentd.llm.model_link import ModelLink, by_path
from agentd.llm.wire import Connect, Wire
from agentd.net.exchange import BROKEN
from agentd.net.wait import Deadline
from agentd.paths import Paths
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink

ASK_S = 5.0  # for the supervisor to answer


@dataclass(frozen=True)
class Address:
    """A server's base URL (ending in /v1 as a rule), the model's name there, and the key."""

    url: str
    model: str
    key: str = ""
    pid: int | None = None
    crashes: int = 0  # of our own server so far, by its own doing: a kill is none
    connect: Connect | None = None  # returns a connection in the place of one to the URL's host


@dataclass
class Strikes:
    """What speaks against one call: bad answers, and crashes of the server that was answering it.

    An answer that breaks off is no strike yet: the server may have been killed. It is one when the
    server's next address says that it crashed, or when the same process breaks off again.
    """

    call: int = 0  # hash of its body
    bad: int = 0
    suspect: Address | None = None  # of the server whose answer broke off last

    def broke_off(self, server: Address) -> None:
        """Note that an answer broke off."""
        if self.suspect is not None and self.suspect.pid == server.pid:
            self.bad += 1
        self.suspect = server

    def found(self, server: Address) -> None:
        """Judge an answer that broke off by the server's address as it is now."""
        if self.suspect is not None and server.crashes > self.suspect.crashes:
            self.bad += 1
            self.suspect = None


class NotThere(ModelUnavailable):
    """Our own server is not up yet, or not at this moment."""


def own_address(paths: Paths) -> Address:
    """Return the address that our own server's supervisor wrote. Raises NotThere."""
    try:
        data = json.loads(paths.model_address.read_text())
        path = data.get("socket")  # needs no token: nobody but this user reaches its folder
        connect = partial(by_path, str(path)) if path else None
        token = "" if connect else paths.token.read_text().strip()
        return _address(data, token, connect)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotThere(
            "the model server has not said yet where it is",
            where=str(paths.model_address),
            hint="`agentd run` starts it",
        ) from error


def linked_address(supervisor: SupervisorLink, cancel: Cancel) -> Address:
    """Return our own server's address, with a link to it of this worker's own.

    Raises:
        NotThere: the supervisor has none now, and says why.
        Stopped: `cancel` came.
    """
    try:
        data, fds = supervisor.ask({"ask": "model"}, ASK_S, cancel)
        return _address(data, "", ModelLink(socket.socket(fileno=fds[0])).connect)
    except Stopped:
        raise
    except AgentdError as error:
        raise NotThere(error.what, where=error.where, hint=error.hint) from error


def fetch(address: Address, path: str, seconds: float) -> bytes | None:
    """Return our own server's answer to GET, or None while it gives no good one."""
    url = address.url.removesuffix("/v1") + path
    headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
    try:
        with Wire().send(
            "GET",
            url,
            Deadline(SystemClock(), seconds),
            headers=headers,
            connect=address.connect,
        ) as reply:
            return reply.body() if reply.status == HTTPStatus.OK else None
    except BROKEN:
        return None  # still starting, or gone this moment


def _address(data: Mapping[str, Any], key: str, connect: Connect | None) -> Address:
    url, crashes = str(data["url"]).rstrip("/"), int(data.get("crashes", 0))
    return Address(url, str(data["model"]), key, data.get("pid"), crashes, connect)
