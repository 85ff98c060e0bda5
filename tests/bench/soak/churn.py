"""Sessions that open, grow, vanish and hang up; requests too large, wrong, or none at all."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import Any

from tests.bench.model import client
from tests.bench.model.servers import Agentd
from tests.bench.model.workload import STREAM, event, response_format

from . import schemas
from .ledger import Check, Ledger

CLIENTS = 32  # that have a session each, at any time
AGENTS = 12
PRIORITIES = ("person", "event", "event", "schedule")
ANSWER_S = 120.0  # a client that still waits then has lost its request
RETRY_MAX_S = 3.0
# What a turn does, and how often of 100.
ACTS = {
    "decide": 74,
    "leave a stream": 8,
    "leave an answer": 5,
    "cold": 2,
    "oversized": 2,
    "wrong": 7,
    "half a request": 2,
}
WRONG = ("json", "schema", "parameter", "model", "token", "priority", "http", "path")
LAST_TURNS = (1, 2, 4, 8)


class Churn:
    """Runs clients against one server until `until` (monotonic seconds), and books all they do."""

    def __init__(self, server: Agentd, window: int, seed: int, until: float) -> None:
        self._server = server
        self._window = window
        self._seed = seed
        self._until = until
        self._number = 0
        self.ledger = Ledger()

    async def run(self) -> None:
        """Return when every client has had an answer to its last request."""
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        made = random.Random(f"{self._seed}/{number}")
        while time.monotonic() < self._until and self._runs():
            await self._session(made)

    def _runs(self) -> bool:
        return self._server.process is not None and self._server.process.poll() is None

    async def _session(self, made: random.Random) -> None:
        self._number += 1
        agent = f"agent{made.randrange(AGENTS)}"
        headers = {
            "X-Agentd-Agent": agent,
            "X-Agentd-Session": str(self._number),
            "X-Agentd-Priority": made.choice(PRIORITIES),
        }
        system = f"You are {agent}. " + random.Random(agent).choice(RULES) * 6
        log = ""
        for turn in range(made.choice(LAST_TURNS)):
            if time.monotonic() > self._until:
                return
            log += event(made, turn)
            messages = [{"role": "system", "content": system}, {"role": "user", "content": log}]
            act = made.choices(list(ACTS), list(ACTS.values()))[0]
            if act == "wrong":
                await self._wrong(made, messages, headers)
            elif act == "half a request":
                await self._half(made)
            else:
                await self._ask(act, made, messages, headers)

    async def _ask(
        self, act: str, made: random.Random, messages: list[Any], headers: Mapping[str, str]
    ) -> None:
        if act in ("cold", "oversized"):
            size = self._window + 100 if act == "oversized" else self._window // 2
            content = "".join(made.choices("abcdefghijklm no", k=size))
            messages = [{"role": "user", "content": content}]
        body, check, kind = self._body(made, messages, stream=act != "leave an answer")
        pieces = made.randint(1, 12)
        leaves = act in ("leave a stream", "leave an answer")
        deadline_s = made.uniform(0.001, 0.4) if act == "leave an answer" else ANSWER_S
        refusals = ("context_length_exceeded",) if act == "oversized" else ()
        until = time.monotonic() + ANSWER_S
        while True:
            answer = await client.chat(
                self._server,
                body,
                headers=headers,
                deadline_s=deadline_s,
                watch=lambda answer: act == "leave a stream" and len(answer.at) >= pieces,
            )
            self.ledger.book(
                f"{act} ({kind})", answer, refusals=refusals, leaves=leaves, check=check
            )
            if answer.status != 503 or time.monotonic() > min(until, self._until):
                return
            await asyncio.sleep(min(answer.retry_after_s, RETRY_MAX_S))

    def _body(
        self, made: random.Random, messages: list[Any], *, stream: bool
    ) -> tuple[dict[str, Any], Check | None, str]:
        body: dict[str, Any] = {
            "messages": messages,
            "max_tokens": made.choice((4, 16, 48, 96)),
            "temperature": made.choice((0, 0, 0.7, 1.5)),
            "seed": made.randrange(2**32),
        }
        if stream:
            body |= STREAM
        if made.random() < 0.2:
            return body, None, "free text"
        kind, schema, check = made.choice(schemas.KINDS)(made)
        body["response_format"] = response_format(schema)
        return body, check, kind

    async def _wrong(
        self, made: random.Random, messages: list[Any], headers: Mapping[str, str]
    ) -> None:
        """Send what must be refused, each with its own reason."""
        body, _check, _kind = self._body(made, messages, stream=made.random() < 0.5)
        body["model"] = self._server.model
        headers = dict(headers)
        path, code, data = client.CHAT, "invalid_request", b""
        match made.choice(WRONG):
            case "json":
                data, code = made.choice((b"{", b"[" * 5000, b"\xff", b'{"a":NaN}')), "invalid_json"
            case "schema":
                schema = made.choice(schemas.IMPOSSIBLE)
                body["response_format"] = response_format(schema)
                code = "unsupported_schema"
            case "parameter":
                body["colour"], code = "blue", "unknown_parameter"
            case "model":
                body["model"], code = "another", "model_not_found"
            case "token":
                headers["Authorization"], code = "Bearer wrong", "unauthorized"
            case "priority":
                headers["X-Agentd-Priority"], code = "urgent", "invalid_header"
            case "http":
                await self._garbage(made)
                return
            case "path":
                path, code = "/v1/nothing", "http_error"
        answer = await client.post(
            self._server,
            path,
            data or json.dumps(body).encode(),
            headers=headers,
            deadline_s=ANSWER_S,
        )
        self.ledger.book(f"wrong: {code}", answer, refusals=(code,))

    async def _garbage(self, made: random.Random) -> None:
        text = made.choice((b"HELLO\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n"))
        answer = await client.raw(self._server, text, deadline_s=ANSWER_S)
        self.ledger.book("no HTTP", answer, refusals=("status 400",))

    async def _half(self, made: random.Random) -> None:
        """Announce a body, send a part of it, and go."""
        head = f"POST {client.CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n"
        head += f"Authorization: {self._server.headers['Authorization']}\r\n\r\n"
        request = head.encode() + b"x" * made.randrange(4000)
        answer = await client.raw(self._server, request, deadline_s=made.uniform(0.001, 0.2))
        self.ledger.book("half a request", answer, leaves=True)


RULES = (
    "Look at each event and say what it is. ",
    "Be brief, and never guess a path that you have not read. ",
    "Sort the letters by sender; leave what is private alone. ",
    "Report what failed, and how often it failed before. ",
)
