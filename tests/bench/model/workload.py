"""N agents at once, each with its own fixed part and a log that grows by an event a turn.

A turn's prompt is made from fixed text and never from an answer, so both servers get the same ones.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import client
from .client import Answer
from .servers import Agentd, Server

DUTIES = (
    "commits",
    "invoices",
    "letters",
    "tests",
    "photographs",
    "meetings",
    "backups",
    "recipes",
)
FOLDERS = ("src", "docs", "tests", "notes", "letters", "bills")
KINDS = ["none", "test", "docs", "style", "bug"]
RISKS = ["low", "medium", "high"]
NOTE_MAX, PATH_MAX, LINE_MAX = 12, 10, 500


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMA = {
    "anyOf": [
        _object(
            tool={"const": "finding"},
            note={"type": "string", "maxLength": NOTE_MAX},
            kind={"enum": KINDS},
        ),
        _object(
            tool={"const": "read_file"},
            path={"type": "string", "maxLength": PATH_MAX},
            line={"type": "integer", "minimum": 1, "maximum": LINE_MAX},
        ),
        _object(tool={"const": "done"}, risk={"enum": RISKS}),
    ]
}
DECISIONS = """{"tool":"finding","note":string,"kind":"none"|"test"|"docs"|"style"|"bug"}
{"tool":"read_file","path":string,"line":int}
{"tool":"done","risk":"low"|"medium"|"high"}"""


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request carries for a schema. Stock ignores it."""
    return {"type": "json_schema", "json_schema": {"name": "decision", "schema": schema}}


def legal(text: str) -> bool:
    """Whether an answer is a decision of `SCHEMA`. Space around it is forgiven."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    match value:
        case {"tool": "finding", "note": str(note), "kind": kind, **rest}:
            return not rest and len(note) <= NOTE_MAX and kind in KINDS
        case {"tool": "read_file", "path": str(path), "line": int(line), **rest}:
            bounded = not isinstance(line, bool) and 1 <= line <= LINE_MAX
            return not rest and len(path) <= PATH_MAX and bounded
        case {"tool": "done", "risk": risk, **rest}:
            return not rest and risk in RISKS
    return False


@dataclass
class Plan:
    """One agent: its requests, one a turn."""

    name: str
    session: int
    prompts: list[list[dict[str, str]]]
    new_tokens: list[int] = field(default_factory=list)  # of each turn: not in the turn before

    def body(self, turn: int, answer_tokens: int, *, masked: bool = True) -> dict[str, Any]:
        """Return a turn's request, for a decision or for any text."""
        return {
            "messages": self.prompts[turn],
            "max_tokens": answer_tokens,
            "temperature": 0,
            **({"response_format": response_format(SCHEMA)} if masked else {}),
            **STREAM,
        }

    def headers(self) -> dict[str, str]:
        """Say who asks. Stock ignores it."""
        return {"X-Agentd-Agent": self.name, "X-Agentd-Session": str(self.session)}


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def plan(name: str, turns: int, session: int = 1) -> Plan:
    """Return one agent's session. The same name and session give the same text."""
    own = random.Random(name)
    duty = own.choice(DUTIES)
    system = (
        f"You are {name} and look after the {duty} of one person. Look at one event at a time, "
        f"oldest first, and give each one finding with a short note. Done: no event about the "
        f"{duty} is left.\nAnswer with one of:\n{DECISIONS}\n"
    )
    made = random.Random(f"{name}/{session}")
    log, prompts = "", []
    for turn in range(turns):
        log += event(made, turn)
        prompts.append([{"role": "system", "content": system}, {"role": "user", "content": log}])
    return Plan(name, session, prompts)


def event(made: random.Random, turn: int) -> str:
    """Return the log's next event, as the loop writes it."""
    payload = {"path": f"{made.choice(FOLDERS)}/{made.randrange(10**5)}.txt", "n": turn}
    ts = f"2026-01-15T10:{turn % 60:02}:{made.randrange(60):02}Z"
    body = json.dumps(payload, separators=(",", ":"))
    return f'<event type="file.read" ts="{ts}" trusted="no">\n{body}\n</event>\n'


async def count_new(plans: Sequence[Plan], tokenizer: Agentd) -> None:
    """Fill in each turn's new tokens: those after what it has in common with the turn before."""
    for one in plans:
        before: list[int] = []
        for prompt in one.prompts:
            tokens = await tokenizer.tokenize(prompt)
            one.new_tokens.append(len(tokens) - common(before, tokens))
            before = tokens


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the longest common beginning."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@dataclass
class Round:
    """What N agents got of one server."""

    plans: Sequence[Plan]
    answers: list[list[Answer]]  # per agent, one a turn; it stops at its first failure
    seconds: float = 0.0

    @property
    def asked(self) -> int:
        """Decisions that all agents together wanted."""
        return sum(len(one.prompts) for one in self.plans)

    @property
    def good(self) -> list[Answer]:
        """All complete answers."""
        return [answer for mine in self.answers for answer in mine if answer.answered]

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that no earlier turn of the same agent had, of the answered turns."""
        pairs = zip(self.plans, self.answers, strict=True)
        return sum(
            new
            for one, mine in pairs
            for new, answer in zip(one.new_tokens, mine, strict=False)
            if answer.answered
        )


async def play(
    server: Server, plans: Sequence[Plan], answer_tokens: int, deadline_s: float
) -> Round:
    """Let all agents take their turns, all at once; return what came within the deadline."""
    played = Round(plans, [[] for _ in plans])
    began = time.monotonic()

    async def agent(one: Plan, mine: list[Answer]) -> None:
        for turn in range(len(one.prompts)):
            left = began + deadline_s - time.monotonic()
            answer = await decide(server, one, turn, answer_tokens, left)
            mine.append(answer)
            if not answer.answered:
                return

    pairs = zip(plans, played.answers, strict=True)
    await asyncio.gather(*(agent(one, mine) for one, mine in pairs))
    ends = [answer.end for answer in played.good]
    played.seconds = max(ends, default=time.monotonic()) - began
    return played


async def decide(
    server: Server, one: Plan, turn: int, answer_tokens: int, deadline_s: float
) -> Answer:
    """Ask for a turn's decision; a full queue is asked again when it says so, as a worker does."""
    began = time.monotonic()
    body = one.body(turn, answer_tokens, masked=server.masks)
    while True:
        left = began + deadline_s - time.monotonic()
        answer = await client.chat(server, body, headers=one.headers(), deadline_s=max(0.0, left))
        answer.sent = began  # the wait belongs to the decision
        if answer.status != 503 or left < answer.retry_after_s:
            return answer
        await asyncio.sleep(max(0.1, answer.retry_after_s))
