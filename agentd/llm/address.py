"""Where a model server is, and what speaks against a call to it."""

import json
from dataclasses import dataclass

from agentd.errors import ModelUnavailable
from agentd.paths import Paths


@dataclass(frozen=True)
class Address:
    """A server's base URL (ending in /v1 as a rule), the model's name there, and the key."""

    url: str
    model: str
    key: str = ""
    pid: int | None = None
    crashes: int = 0  # of our own server so far, by its own doing: a kill is none


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
    """Our own server has not written its address yet."""


def own_address(paths: Paths) -> Address:
    """Return the address that our own server's supervisor wrote. Raises NotThere."""
    try:
        data = json.loads(paths.model_address.read_text())
        token = paths.token.read_text().strip()
        crashes = int(data.get("crashes", 0))
        url = str(data["url"]).rstrip("/")
        return Address(url, str(data["model"]), token, data.get("pid"), crashes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotThere(
            "the model server has not said yet where it is",
            where=str(paths.model_address),
            hint="`agentd run` starts it",
        ) from error
