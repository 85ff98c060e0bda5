"""Stand-ins for ntfy and for Telegram's Bot API, over real sockets; and results to be sent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agentd.bus import Bus
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.testing import ManualClock

TOKEN = "123456:ABC-secret-of-the-bot"
CHAT = 77
PAST = timedelta(minutes=2)  # for what nobody waits for more with


class Messenger:
    """Both servers at one port. `refuse`: what to answer instead of well, by its path's end."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any], dict[str, str]]] = []  # path, body, headers
        self.refuse: dict[str, tuple[int, dict[str, Any]]] = {}
        self.updates: list[dict[str, Any]] = []
        self.polls: list[dict[str, Any]] = []
        self.news = threading.Condition()
        self.hold = threading.Event()  # until it is set, sends are not answered
        self.hold.set()
        self._number = 0
        messenger = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                status, answer = messenger.answer(self.path, body, dict(self.headers))
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with suppress(OSError):  # who asked is gone
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Return what is answered to a post."""
        method = path.rpartition("/")[2]
        if method == "getUpdates":
            return self._poll(body)
        self.posts.append((path, body, headers))
        self.hold.wait(60)
        if (refused := self.refuse.get(method)) is not None:
            return refused
        self._number += 1
        return 200, {"ok": True, "result": {"message_id": self._number}, "id": str(self._number)}

    def _poll(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.polls.append(body)
        if (refused := self.refuse.get("getUpdates")) is not None:
            return refused
        with self.news:
            if not self._new(body):
                self.news.wait(min(body["timeout"], 0.5))
            return 200, {"ok": True, "result": self._new(body)}

    def _new(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return [u for u in self.updates if u["update_id"] >= body.get("offset", 0)]

    def say(self, text: str, reply_to: int | None, *, chat: int = CHAT, bot: bool = False) -> None:
        """Write to the bot, as a person does (or another bot)."""
        message: dict[str, Any] = {"message_id": 900, "from": {"id": 5, "is_bot": bot}}
        message |= {"chat": {"id": chat, "type": "private"}, "text": text}
        if reply_to is not None:
            message["reply_to_message"] = {"message_id": reply_to, "from": {"is_bot": True}}
        with self.news:
            number = 1000 + len(self.updates)
            self.updates.append({"update_id": number, "message": message})
            self.news.notify_all()

    @property
    def texts(self) -> list[str]:
        """What was sent, as a person reads it."""
        bodies = (body for _, body, _ in self.posts)
        return [b["text"] if "text" in b else f"{b['title']}\n\n{b['message']}" for b in bodies]


@contextmanager
def messenger() -> Iterator[Messenger]:
    """Yield one that is served."""
    one = Messenger()
    with one.server:
        threading.Thread(target=one.server.serve_forever, args=(0.01,), daemon=True).start()
        yield one
        one.server.shutdown()


def publish(
    database: Path, *events: NewEvent, agent: str = "mail_triage", ago: timedelta = PAST
) -> None:
    """Publish events as an agent did a while ago."""
    bus = Bus(database, clock=ManualClock(datetime.now(UTC) - ago))
    for event in events:
        bus.publish(agent, event, system=True)
    bus.close()


def ask(database: Path, question: str, *, approval: bool = False, agent: str = "asker") -> int:
    """Let a session of an agent wait for a person; return its id."""
    bus = Bus(database, clock=ManualClock(datetime.now(UTC) - PAST))
    bus.accept(agent, "v", subscribe=["a.b"])
    bus.publish("person", NewEvent("a.b", {}, target=agent))
    lane = Lane(agent, direct=True)
    event = bus.next(lane)
    assert event is not None
    sessions = Sessions(bus)
    session = sessions.begin(lane, event, "v", Limits())
    assert isinstance(session, Session)
    name = "WriteFile" if approval else "AskPerson"
    args = {"path": "a.txt"} if approval else {"question": question}
    sessions.journal.record(session, Step(StepKind.DECISION, name, args, asks=approval))
    if approval:
        sessions.journal.record(session, Step(StepKind.ASKED, name, {"expires": "1d"}))
    sessions.closing.park(session, question)
    bus.close()
    return session.id


def result(title: str, text: str = "", kind: str = "mail.triaged") -> NewEvent:
    """Return a result."""
    return NewEvent(kind, {"title": title, **({"text": text} if text else {})})
