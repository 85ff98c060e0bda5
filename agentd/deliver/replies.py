"""What a person writes to the bot: replies to questions, taken as answers. Never a yes.

One poll at a time, whose answer says that all is well. What was read is noted in the same
transaction as the answer that it is: nothing is taken twice. Others' chats are not heard, and
neither are bots, ourselves among them.
"""

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from agentd.bus import Bus
from agentd.clock import Clock, iso, parse_iso
from agentd.deliver.courier import RETRY_FIRST_S, RETRY_MAX_S
from agentd.deliver.position import noted_of
from agentd.deliver.telegram import BotApi, asks_key
from agentd.deliver.ways import POST_S, WayFailed
from agentd.errors import AgentdError, Problem, Stopped
from agentd.events import DELIVER
from agentd.logs.logger import Logger
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink

POLL_S = 50  # that one poll waits for news
PAUSE_S = 0.5  # between two, whatever a server answers
# After a week without any, the next update's number is arbitrary: then an older one says nothing.
FRESH = timedelta(days=6)
NO_QUESTION = (
    "Only questions are answered by a reply. What asks for a yes is answered on the machine, by "
    "`agentd answer`; so is a question whose message agentd does not know any more."
)


class Replies:
    """Polls one bot. `round` is for its thread alone, `document` for any."""

    def __init__(
        self,
        api: BotApi,
        chats: tuple[int, ...],
        asks: dict[int, dict[str, Any]],
        bus: Bus,
        link: SupervisorLink,
        cancel: Cancel,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self._api, self._chats, self._asks, self._bus = api, chats, asks, bus
        self._link, self._cancel, self._log, self._clock = link, cancel, log, clock
        noted = noted_of(bus)
        asks.update({chat: noted.get(asks_key(chat)) or {} for chat in chats})
        self._failures = 0
        self._lock = threading.Lock()
        self._document: dict[str, Any] = {}
        self._say("waits", None)

    def document(self) -> dict[str, Any]:
        """Return how it goes, as `agentd status` shows it."""
        with self._lock:
            return dict(self._document)

    def round(self) -> float:
        """Poll once and take what came; return the seconds to wait before the next poll.

        Raises:
            StorageError: the database cannot be used; what came, comes again.
            Stopped: this process is to stop.
        """
        try:
            key = f"updates:{self._api.bot}"
            offset = self._offset(key)
            more = {} if offset is None else {"offset": offset}
            wanted = {"timeout": POLL_S, "allowed_updates": ["message"], **more}
            updates = self._api.call("getUpdates", POLL_S + POST_S, **wanted)
            self._failures = 0
            self._say("ok", None, iso(self._clock.now()))
            for update in updates if isinstance(updates, list) else ():
                if isinstance(update, dict) and type(update.get("update_id")) is int:
                    self._take(key, update["update_id"], update.get("message"))
        except WayFailed as error:
            self._failures += 1
            doubled = RETRY_FIRST_S * 2.0 ** min(self._failures - 1, 10)
            if self._failures == 1:
                self._log.warning("deliver.deaf", error=error.what)
            self._say("failed", error.document())
            return max(min(doubled, RETRY_MAX_S), error.wait_s)
        return PAUSE_S

    def _offset(self, key: str) -> int | None:
        """Return the number of the first update that was not taken, None where nothing says it."""
        noted = _table(noted_of(self._bus).get(key))
        try:
            if self._clock.now() - parse_iso(noted["at"]) < FRESH:
                return int(noted["next"])
        except (TypeError, KeyError, ValueError):
            pass
        return None

    def _take(self, key: str, number: int, message: Any) -> None:
        done = {key: {"next": number + 1, "at": iso(self._clock.now())}}
        chat, to, text = _reply(message)
        if chat not in self._chats or not text:
            self._bus.facts.remember(DELIVER, done)
            return
        asked = self._asks.get(chat, {}).get(str(to))
        told = NO_QUESTION
        if isinstance(asked, list) and len(asked) == 2:
            told = self._answer(asked, text, done)
        else:
            self._bus.facts.remember(DELIVER, done)
        self._log.info("deliver.heard", chat=chat, answers=asked[0] if asked else None)
        try:
            self._api.call("sendMessage", chat_id=chat, text=told)
        except WayFailed as error:  # it was a courtesy
            self._log.warning("deliver.failed", way=f"telegram:{chat}", error=error.what)

    def _answer(self, asked: list[Any], text: str, done: Mapping[str, Any]) -> str:
        """Have the supervisor answer for the person; return what to tell them."""
        ask = {"ask": "reply", "session": asked[0], "asked": asked[1], "answer": text, "done": done}
        try:
            answer, _ = self._link.ask(ask, cancel=self._cancel)
        except Stopped:
            raise
        except AgentdError as error:  # it comes again with the next poll
            raise WayFailed(error.what) from error
        return str(answer["told"])

    def _say(self, state: str, problem: Problem | None, last: str | None = None) -> None:
        with self._lock:
            last = last or self._document.get("last")
            self._document = {"state": state, "last": last, "problem": problem}


def _reply(message: Any) -> tuple[Any, Any, str]:
    """Return the chat of a person's reply, to which message it is, and its text; "" for none."""
    found = _table(message)
    to = _table(found.get("reply_to_message"))
    text = found.get("text")
    by_person = _table(found.get("from")).get("is_bot") is False
    to_bot = _table(to.get("from")).get("is_bot") is True
    chat = _table(found.get("chat")).get("id")
    words = text.strip() if isinstance(text, str) and by_person and to_bot else ""
    return chat, to.get("message_id"), words


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
