"""The agent's union over a real server, with a prompt that was made already."""

from collections.abc import Sequence

from agentd.admission.version import Version
from agentd.llm.baml import BamlLLM
from agentd.llm.decision import Message
from agentd.llm.endpoint import Endpoint


class ToldLLM(BamlLLM):
    """Asks with these messages before the log; in them folders are called as they are told."""

    def __init__(
        self, version: Version, messages: Sequence[Message], endpoint: Endpoint, *, agent: str = ""
    ) -> None:
        super().__init__(
            version.client_dir,
            version.function,
            endpoint,
            agent=agent or version.accepted.name,
            done=version.accepted.config.done,
            weight=version.accepted.config.priority,
            arguments=version.arguments,
            members=version.members,
        )
        self._messages = list(messages)

    def prompt(self, log: str) -> list[Message]:
        """Return the messages of a call."""
        *before, last = self._messages
        return [*before, {**last, "content": last["content"] + log}]
