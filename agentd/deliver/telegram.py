"""Messages by a bot of Telegram, as plain text: nothing in them is markup.

https://core.telegram.org/bots/api#sendmessage. The API has no mark for a message that is sent
again: one that was cut off in the middle may come twice.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from agentd.config.delivery import TelegramConfig
from agentd.config.secret_names import secret_name
from agentd.deliver.messages import Message, pieces
from agentd.deliver.ways import POST_S, REFUSED, WRONG, Poster, WayFailed
from agentd.terminal import plain

UNITS_MAX = 4096  # UTF-16 code units of one message
ASKS_MAX = 50  # questions of one chat whose messages are known
TOLD_CHARACTERS = 200
TOKEN = re.compile(r"\d{1,20}:[\w-]{1,200}", re.ASCII)  # the bot's id, and what nobody may know
HINTS = {
    401: "its token is wrong: ask @BotFather for it",
    400: "is the chat's id right? Write /start to the bot first",
    403: "write /start to the bot, or let it into the group",
    409: "another program polls this bot: end it, or make a bot for agentd alone",
}


class BotApi:
    """One bot's calls."""

    def __init__(self, config: TelegramConfig, poster: Poster) -> None:
        self._url, self._name, self._poster = config.url.rstrip("/"), config.token, poster
        self._token = ""

    @property
    def bot(self) -> str:
        """The bot's id, which is no secret. Raises as `call`."""
        return self._known_token().partition(":")[0]

    def call(self, method: str, deadline_s: float = POST_S, **fields: Any) -> Any:
        """Return what the API answers.

        Raises:
            WayFailed: it answers with an error, or nothing.
            Stopped: this process is to stop.
        """
        url = f"{self._url}/bot{self._known_token()}/{method}"
        again = method == "getUpdates"
        answer = self._poster.post(url, fields, deadline_s=deadline_s, idempotent=again)
        try:
            told = json.loads(answer["text"])
        except ValueError:
            told = None
        told = told if isinstance(told, dict) else {}
        if told.get("ok") is True:
            return told.get("result")
        status = told.get("error_code", answer["status"])
        if status == 401:
            self._token = ""  # a person may have put another one in its place
        parameters = told.get("parameters")
        wait_s = parameters.get("retry_after") if isinstance(parameters, dict) else None
        raise WayFailed(
            f"Telegram answered {status}: {plain(str(told.get('description')))[:TOLD_CHARACTERS]}",
            hint=HINTS.get(status, ""),
            wait_s=wait_s if isinstance(wait_s, int | float) else answer["wait_s"],
            lasting=status in WRONG,
            refused=status in REFUSED,
        )

    def _known_token(self) -> str:
        if not self._token:
            name = secret_name(self._name)
            token = self._poster.secret(name).strip()
            if not TOKEN.fullmatch(token):  # it would stand in addresses, and its id in a fact
                raise WayFailed(
                    f"the secret {name} is no token of a bot",
                    hint="it looks like 123456:ABC-def; ask @BotFather for it",
                    lasting=True,
                )
            self._token = token
        return self._token


class TelegramChat:
    """One chat of a bot. `asks`: by chat, which of its messages asked what; its answers are heard.

    A question is `[session, what an answer has to name]`.
    """

    def __init__(self, api: BotApi, chat: int, asks: dict[int, dict[str, Any]]) -> None:
        self._api, self._chat, self._asks = api, chat, asks
        self._sent: tuple[str, int] = ("", 0)  # of which message how many pieces are there

    def send(self, message: Message) -> Mapping[str, Any]:
        """Send a message, in pieces; one that failed in the middle goes on from there."""
        text = f"{message.title}\n\n{message.text}" if message.text else message.title
        key, done = self._sent
        done, sent = done if key == message.key else 0, None
        for number, piece in enumerate(pieces(text, UNITS_MAX)):
            if number >= done and piece.strip():
                sent = self._api.call("sendMessage", chat_id=self._chat, text=piece)
                self._sent = message.key, number + 1
        if message.question is None or not isinstance(sent, dict):
            return {}
        asked = [message.question.session, message.question.asked]
        kept = [*self._asks.get(self._chat, {}).items()][1 - ASKS_MAX :]
        self._asks[self._chat] = {**dict(kept), str(sent.get("message_id")): asked}
        return {asks_key(self._chat): self._asks[self._chat]}


def asks_key(chat: int) -> str:
    """Return under which key it is noted what the messages of a chat asked."""
    return f"asks:{chat}"
