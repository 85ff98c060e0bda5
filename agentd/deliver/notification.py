"""Notifications of macOS, shown by the supervisor: in our sandbox no program can be started."""

from collections.abc import Mapping
from typing import Any

from agentd.deliver.messages import Message
from agentd.deliver.ways import WayFailed
from agentd.errors import AgentdError, Stopped
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink


class Notification:
    """The screen of this Mac."""

    def __init__(self, link: SupervisorLink, cancel: Cancel) -> None:
        self._link, self._cancel = link, cancel

    def send(self, message: Message) -> Mapping[str, Any]:
        """Show a message. Raises WayFailed, Stopped."""
        ask = {"ask": "notify", "title": message.title, "text": message.text}
        try:
            self._link.ask(ask, cancel=self._cancel)
        except Stopped:
            raise
        except AgentdError as error:
            raise WayFailed(error.what, hint=error.hint, lasting=True) from error
        return {}
