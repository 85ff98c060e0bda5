"""Messages to a topic of ntfy, as JSON: a title may hold what no header may.

https://docs.ntfy.sh/publish/#publish-as-json. A message that is sent again has the same
`sequence_id`: ntfy 2.16 and later then replaces the one on the phone, older servers show both.
"""

from collections.abc import Mapping
from typing import Any

from agentd.config.delivery import NtfyConfig
from agentd.config.secret_names import secret_name
from agentd.deliver.messages import Message
from agentd.deliver.ways import REFUSED, WRONG, Poster, WayFailed
from agentd.terminal import plain

MESSAGE_BYTES = 3_900  # ntfy makes a file of more than 4,096
REST = "\n... the rest: agentd results"
TOLD_CHARACTERS = 200


class Ntfy:
    """One topic."""

    def __init__(self, config: NtfyConfig, poster: Poster) -> None:
        self._server, _, self._topic = config.url.rstrip("/").rpartition("/")
        self._token, self._poster = secret_name(config.token), poster

    def send(self, message: Message) -> Mapping[str, Any]:
        """Publish a message. Raises WayFailed, Stopped."""
        token = self._poster.secret(self._token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        text = message.text.encode("utf-8", "replace")
        if len(text) > MESSAGE_BYTES:
            text = text[: MESSAGE_BYTES - len(REST)].decode("utf-8", "ignore").encode()
            text += REST.encode()
        body = {"topic": self._topic, "title": message.title, "message": text.decode()}
        body["sequence_id"] = f"agentd-{message.key}"
        answer = self._poster.post(self._server + "/", body, headers)
        if (status := answer["status"]) != 200:
            told = plain(answer["text"])[:TOLD_CHARACTERS]
            hint = "is its URL right, and its token?" if status in WRONG else ""
            raise WayFailed(
                f"ntfy answered {status}: {told}",
                hint=hint,
                wait_s=answer["wait_s"],
                lasting=status in WRONG,
                refused=status in REFUSED,
            )
        return {}
