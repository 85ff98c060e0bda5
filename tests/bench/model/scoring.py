"""Scores of headlines against a few heads, beside a plain pass for each whole text."""

import json
import time
from collections.abc import AsyncIterator

from tests.bench.table import Figure

from . import client
from .bare import Bare
from .bench import Bench, NoAnswer

HEADS = ("The reader likes football.", "The reader likes everything.")
ITEMS = tuple(
    f" {who} {what} in {where}."
    for who in ("The mayor", "A team of students", "The national bank", "An old lighthouse")
    for what in ("opens a park", "wins the cup", "is in trouble again", "was seen by many")
    for where in ("Bern", "the north of the country")
)
ROUNDS = 3
PHASE = "scoring"


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield the pairs a second, with the heads cached after the first round, best of a few."""
    server, pairs = bench.agentd, len(HEADS) * len(ITEMS)
    body = json.dumps({"model": server.model, "heads": HEADS, "items": ITEMS}).encode()
    bare = Bare(bench.folder)
    ours: list[float] = []
    theirs: list[float] = []
    try:
        for _ in range(ROUNDS):  # in turns, so that both meet the same noise
            began = time.monotonic()
            answer = await client.post(server, "/v1/score", body, deadline_s=bench.shape.deadline_s)
            ours.append(pairs / (time.monotonic() - began))
            if not answer.whole or answer.error:  # a score has no finish_reason
                raise NoAnswer(f"{PHASE}: {answer.error}")
            theirs.append(pairs / bare.score_s(HEADS, ITEMS))
    finally:
        bare.close()
    name = f"scores of {len(ITEMS)} headlines behind {len(HEADS)} heads"
    yield Figure(name, max(ours), "/s", max(theirs), "mlx_lm, a pass for each whole text")
