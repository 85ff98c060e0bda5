"""Whether a person wrote an answer, as the supervisor knows: it has the key."""

from collections.abc import Callable

from agentd.approval.signature import digest
from agentd.errors import AgentdError, Stopped, ToolError
from agentd.events import Event
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import ASK_S, SupervisorLink


class PersonsWord:
    """Asks by `link`. `beat` promises a next beat within so many seconds."""

    def __init__(
        self, link: SupervisorLink, cancel: Cancel | None, beat: Callable[[float], None]
    ) -> None:
        self._link, self._cancel, self._beat = link, cancel, beat

    def forged(self, event: Event, *, use: bool = False) -> str | None:
        """Say why a person did not write this event.

        Raises:
            AgentdError: the supervisor does not answer.
            Stopped: this process is to stop.
        """
        self._beat(ASK_S)
        asked = {"ask": "verify", "event": event.id, "use": use}
        answer, _ = self._link.ask(asked, cancel=self._cancel)
        same = answer.get("digest") == digest(event.event_type, event.target, event.payload)
        why = answer.get("forged", "is not known to the supervisor")
        return why if why is not None or same else "was changed while it was looked at"

    def use(self, answer: Event) -> str | None:
        """Say why what this answer allows must not be done. From now on because it was done.

        Raises:
            ToolError: nobody says; what it allows has not begun.
            Stopped: this process is to stop.
        """
        try:
            return self.forged(answer, use=True)
        except Stopped:
            raise
        except AgentdError as error:
            raise ToolError(error.what) from error
