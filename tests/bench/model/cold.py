"""A long cold prompt arrives while others decode: how long they stand still, and it waits."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise

from tests.bench.table import Figure

from . import client
from .bench import Bench, NoAnswer
from .client import Answer
from .servers import Agentd, Server
from .workload import STREAM

STREAMS = 4
UNDER_WAY = 3  # pieces
LENGTH = 2  # times as many tokens as a stream has elsewhere: they go on while the prompt waits
CHUNK_MS = 100.0  # of prefill between two decoding steps
PHASE = "cold prompt"


@dataclass
class Arrival:
    """What happened around the long prompt, in milliseconds."""

    decoding: int  # streams that had begun
    gap: float  # the longest of any stream while the prompt was prefilled
    undisturbed: float  # the median one before
    first: float  # until the prompt's own first token, or until the deadline
    answered: bool


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield the longest decode gap, and the long prompt's own first token."""
    text = await sized_text(bench.agentd, bench.shape.cold_tokens)
    found: dict[str, Arrival | None] = {}
    for server in bench.servers:
        found[server.label] = arrival = await _arrive(bench, server, text)
        await bench.after(server, PHASE, int(bool(arrival and arrival.answered)), 1)
    other = bench.other
    ours, theirs = found["agentd"], found[other.label]
    if ours is None:
        raise NoAnswer(f"{PHASE}: no stream was decoding")
    name = f"a cold prompt of {bench.shape.cold_tokens:,} tokens"
    notes = [f"{ours.decoding} streams were decoding"]
    if theirs and theirs.decoding != ours.decoding:
        notes.append(f"{other.label}: {theirs.decoding}")
    notes += [bench.note(PHASE)] if bench.note(PHASE) else []
    yield Figure(
        f"{name}: longest decode gap of the others",
        ours.gap,
        "ms",
        theirs.gap if theirs else None,
        other.title,
        at_most=round(CHUNK_MS + 2 * ours.undisturbed),
        note="; ".join([*notes, "aim: a chunk of 100 ms and two steps"]),
    )
    late = "" if ours.answered else "none within the deadline"
    first = theirs.first if theirs and theirs.answered else None
    yield Figure(f"{name}: its own first token", ours.first, "ms", first, other.title, note=late)


async def _arrive(bench: Bench, server: Server, text: str) -> Arrival | None:
    """Let streams begin, send the prompt, hang up on all when its first token is here.

    None: no stream was decoding when the prompt was sent.
    """
    until = time.monotonic() + bench.shape.deadline_s
    length = LENGTH * bench.shape.stream_tokens
    answers = [Answer() for _ in range(STREAMS)]
    begun = asyncio.Event()

    def watch(number: int) -> client.Watch:
        def look(answer: Answer) -> bool:
            answers[number] = answer
            pieces = [len(one.at) for one in answers]
            # All of them; a server that runs one at a time has the others wait.
            if min(pieces) >= UNDER_WAY or max(pieces) >= length // 2:
                begun.set()
            return False

        return look

    async def stream(number: int) -> None:
        await client.chat(
            server,
            _body(f"Story {number}: tell of a ferryman, and go on without an end.", length),
            headers={"X-Agentd-Agent": f"running{number}"},
            deadline_s=bench.shape.deadline_s,
            watch=watch(number),
        )

    streams = asyncio.gather(*(stream(number) for number in range(STREAMS)))
    ready = asyncio.ensure_future(begun.wait())
    try:
        await asyncio.wait(
            (ready, streams),
            timeout=bench.shape.deadline_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        decoding = [one for one in answers if one.at and not one.end]
        gaps = [after - before for one in decoding for before, after in pairwise(one.at)]
        if not gaps:
            return None
        median = statistics.median(gaps)
        cold = await client.chat(
            server,
            _body(text, 8),
            headers={"X-Agentd-Agent": "newcomer"},
            deadline_s=max(0.0, until - time.monotonic()),
            watch=lambda answer: True,
        )
        end = cold.sent + cold.first_s
        longest = max(_longest_gap(one, cold.sent, end) for one in decoding)
    finally:
        ready.cancel()
        streams.cancel()
        await asyncio.gather(ready, streams, return_exceptions=True)
    first = 1000 * cold.first_s
    return Arrival(len(decoding), 1000 * longest, 1000 * median, first, bool(cold.at))


def _longest_gap(answer: Answer, begin: float, end: float) -> float:
    """Return the longest time between two pieces that touches the window."""
    moments = list(answer.at)
    if not answer.end:  # it still runs: silence until the window's end counts
        moments.append(max(end, moments[-1]))
    gaps = [b - a for a, b in pairwise(moments) if b > begin and a < end]
    return max(gaps, default=0.0)


def _body(content: str, tokens: int) -> dict[str, object]:
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "max_tokens": tokens, "temperature": 0, **STREAM}


async def sized_text(tokenizer: Agentd, tokens: int) -> str:
    """Return text that makes a prompt of about so many tokens."""
    lines = "".join(
        f"Entry {number} of a very long log, kept for years.\n" for number in range(2000)
    )
    size = len(await tokenizer.tokenize([{"role": "user", "content": lines}]))
    return lines[: round(len(lines) * tokens / size)]
