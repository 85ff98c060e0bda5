"""What every way of sending has in common, and how it fails."""

from collections.abc import Mapping
from typing import Any, Protocol

from agentd.deliver.messages import Message
from agentd.errors import AgentdError, ConfigError, Stopped
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink
from agentd.secret_rules import remember
from agentd.tools.remote import Remote

POST_S = 30.0  # for one message to be taken
WRONG = (401, 403, 404)  # statuses that only a person can help: a wrong token, topic or chat
REFUSED = (400, 413, 422)  # statuses of a message that is not taken


class WayFailed(AgentdError):
    """Something was not delivered. `wait_s`: not to be tried before; `lasting`: a person's turn.

    `refused`: it may be this message that is not taken, and not each one.
    """

    def __init__(
        self,
        what: str,
        *,
        hint: str = "",
        wait_s: float = 0.0,
        lasting: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(what, hint=hint)
        self.wait_s, self.lasting, self.refused = wait_s, lasting, refused


class MessageWay(Protocol):
    """A way by which results reach a person."""

    def send(self, message: Message) -> Mapping[str, Any]:
        """Send a message; return what has to be noted with it.

        Raises:
            WayFailed: it did not get there; nobody knows where it was cut off in the middle.
            Stopped: this process is to stop.
        """
        ...


class Poster:
    """Posts by way of the fetcher, over a channel of `kind`, which knows the hosts."""

    def __init__(self, link: SupervisorLink, kind: str, cancel: Cancel) -> None:
        self._link, self._cancel = link, cancel
        self._remote = Remote(link, kind)

    def post(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        deadline_s: float = POST_S,
        idempotent: bool = False,
    ) -> Mapping[str, Any]:
        """Return the answer: `status`, `text`, and `wait_s` where the server says how long to wait.

        Raises:
            WayFailed: there is none.
            Stopped: this process is to stop.
        """
        args = {"url": url, "body": dict(body), "headers": dict(headers or {})}
        try:
            call = self._remote.call
            return call("Post", args, deadline_s, self._cancel, idempotent=idempotent).value
        except Stopped:
            raise
        except AgentdError as error:
            raise WayFailed(error.document()["what"], hint="is the network up?") from error

    def secret(self, name: str | None) -> str:
        """Return the secret of this name, "" for none.

        Raises:
            WayFailed: there is none of that name.
            Stopped: this process is to stop.
        """
        if name is None:
            return ""
        try:
            answer, _ = self._link.ask({"ask": "secret", "name": name}, cancel=self._cancel)
        except ConfigError as error:
            raise WayFailed(error.what, hint=error.hint, lasting=True) from error
        except Stopped:
            raise
        except AgentdError as error:
            raise WayFailed(error.what) from error
        value = str(answer["value"])
        remember(value)  # hidden from here on in all that this process tells
        return value
