"""Masked streams beside the limit: a bare batch on the same model whose masks are there already."""

import statistics
from collections.abc import AsyncIterator

from tests.bench.table import Figure

from .bare import Bare
from .bench import Bench, NoAnswer
from .decoding import ENDLESS, stream_body, streams, tokens_a_second

BATCHES = (1, 8, 16)
LIMIT = "mlx_lm's model in a bare batch, masks computed beforehand"
PHASE = "limit"


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield tokens a second of masked streams side by side; both sides take turns."""
    server, shape = bench.agentd, bench.shape
    bodies = [stream_body(number, 1, masked=True) for number in range(max(BATCHES))]
    prompts = [await server.tokenize(body["messages"]) for body in bodies]
    bare = Bare(bench.folder)
    try:
        await streams(bench, server, max(BATCHES), 4, masked=True)  # all prompts are cached now
        for count in BATCHES:
            tokens = shape.stream_tokens if count == 1 else shape.batch_tokens
            bare.limit(prompts[:count], tokens, ENDLESS)  # learns the masks
            ours: list[float] = []
            most: list[float] = []
            for _ in range(shape.rounds):
                answers = await streams(bench, server, count, tokens, masked=True)
                pace = tokens_a_second(answers)
                if pace is None:
                    raise NoAnswer(f"{PHASE}: {count} streams")
                ours.append(pace)
                most.append(bare.limit(prompts[:count], tokens, ENDLESS))
            name = f"{count} masked stream{'s together' if count > 1 else ''}: tokens"
            yield Figure(name, statistics.median(ours), "/s", statistics.median(most), LIMIT)
    finally:
        bare.close()
