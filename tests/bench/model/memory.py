"""What a cached token takes, with sessions of one agent that share its fixed part."""

import json
from collections.abc import AsyncIterator

from tests.bench.table import Figure

from .bench import Bench, NoAnswer
from .workload import plan, play

SESSIONS = 4  # fewer than the ten that stock keeps
EVENTS = 3  # in the log of each
ANSWER_TOKENS = 8  # the prompts are what is to be cached
PHASE = "memory"


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield bytes a cached token. To be measured first: the servers hold little else by then."""
    found: dict[str, float | None] = {}
    for server in bench.servers:
        plans = [plan("keeper", EVENTS, session) for session in range(SESSIONS)]
        before = await server.metrics()
        answered, held = 0, 0
        for one in plans:
            one.prompts = one.prompts[-1:]
            played = await play(server, [one], ANSWER_TOKENS, bench.shape.deadline_s)
            answered += len(played.good)
            held += sum(a.prompt_tokens + a.completion_tokens for a in played.good)
        found[server.label] = None
        if not await bench.after(server, PHASE, answered, SESSIONS):
            continue
        after = await server.metrics()
        grown = after["cache_bytes"] - before["cache_bytes"]
        if "cache_tokens" in after:  # stock's own count, as it drops what it likes
            held = round(after["cache_tokens"] - before["cache_tokens"])
        found[server.label] = grown / held if held > 0 else None
    ours = found["agentd"]
    if ours is None:
        raise NoAnswer(f"{PHASE}: or it keeps nothing")
    note = f"{SESSIONS} sessions of one agent; keys and values alone: {_plain_bytes(bench):,}"
    yield Figure(
        "memory of a cached token",
        ours,
        "bytes",
        found[bench.other.label],
        bench.other.title,
        note="; ".join(part for part in (note, bench.note(PHASE)) if part),
    )


async def at_the_end(bench: Bench) -> AsyncIterator[Figure]:
    """Yield the processes' memory after all phases."""
    ours, theirs = (server.memory_mb() for server in bench.servers)
    anew = bench.other.restarts
    note = f"{bench.other.label} was started anew {anew} times" if anew else ""
    name = "memory of the process at the end"
    yield Figure(name, ours, "MB", theirs, bench.other.title, note=note)


def _plain_bytes(bench: Bench) -> int:
    """Return what a token's keys and values take in float32."""
    config = json.loads((bench.folder / "config.json").read_text())
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    layers, heads = config["num_hidden_layers"], config["num_key_value_heads"]
    return int(2 * 4 * layers * heads * width)
