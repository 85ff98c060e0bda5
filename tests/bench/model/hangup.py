"""Tokens that are generated for nobody, after a client has hung up."""

import statistics
from collections.abc import AsyncIterator
from typing import Any

from tests.bench.table import Figure

from . import client
from .bench import Bench, NoAnswer
from .servers import Server, ServerDied
from .workload import STREAM

PIECES = 6  # that the client takes
PHASE = "hang-up"


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield what is generated after the hang-up, streaming and not."""
    streamed: dict[str, float | None] = {}
    whole: dict[str, float | None] = {}
    for server in bench.servers:
        tries = [await _try(bench, server, number) for number in range(bench.shape.rounds)]
        good = [found for found in tries if found is not None]
        if len(good) < len(tries):
            await bench.after(server, PHASE, len(good), len(tries))
        streamed[server.label] = statistics.median(s for s, _ in good) if good else None
        whole[server.label] = statistics.median(w for _, w in good) if good else None
    asked = f"of {_limit(bench)} that were asked for"
    for name, values, note in (
        ("hang-up in a stream", streamed, f"{asked}, {PIECES} taken"),
        ("hang-up, not streaming", whole, f"{asked}; by the clock, at about {PIECES}"),
    ):
        ours = values["agentd"]
        if ours is None:
            raise NoAnswer(PHASE)
        said = "; ".join(part for part in (note, bench.note(PHASE)) if part)
        theirs, against = values[bench.other.label], bench.other.title
        name = f"{name}: tokens for nobody"
        yield Figure(name, ours, "", theirs, against, at_most=2, note=said)


def _limit(bench: Bench) -> int:
    return 2 * bench.shape.stream_tokens


async def _try(bench: Bench, server: Server, number: int) -> tuple[float, float] | None:
    """Hang up in a stream, and on an answer that comes whole. None: the server failed."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"Count up, {number}, and never stop."}],
        "max_tokens": _limit(bench),
        "temperature": 0,
    }
    headers = {"X-Agentd-Agent": "leaver", "X-Agentd-Session": str(number)}
    deadline_s = bench.shape.deadline_s

    async def generated() -> float:
        if not await server.idle():
            raise ServerDied
        return (await server.metrics())["completion_tokens_total"]

    async def stream() -> client.Answer:
        return await client.chat(
            server,
            {**body, **STREAM},
            headers=headers,
            deadline_s=deadline_s,
            watch=lambda answer: len(answer.at) == PIECES,
        )

    try:
        await stream()  # the prompt is cached from here on
        before = await generated()
        answer = await stream()
        between = await generated()
        # As long as a whole answer of so many tokens takes: what streams is slower.
        short = {**body, "max_tokens": PIECES}
        timed = await client.chat(server, short, headers=headers, deadline_s=deadline_s)
        begun = await generated()
        await client.chat(server, body, headers=headers, deadline_s=timed.latency_s)
        after = await generated()
    except ServerDied:
        return None
    if not (answer.hung_up and timed.answered):
        return None
    return max(0.0, between - before - PIECES), max(0.0, after - begun - PIECES)
