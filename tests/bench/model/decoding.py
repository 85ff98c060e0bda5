"""The pace of plain decoding, alone and eight at a time, and what a mask adds to a step."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.bench.table import Figure

from . import client
from .bare import Bare
from .bench import Bench, NoAnswer
from .client import Answer
from .servers import Server
from .workload import STREAM, response_format

BATCH = 8
BARE = "mlx_lm's stream_generate"
# Nothing of it is forced, and it does not end before its bound: each token is masked and sampled.
ENDLESS = {"type": "string", "minLength": 900, "maxLength": 1000}
PHASE = "decoding"

Sides = dict[str, list[float | None]]  # one value a round; None: a server that did not answer


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield paces and mask costs; all sides take turns, so that they meet the same noise."""
    before = await bench.agentd.metrics()
    bare = Bare(bench.folder)
    try:
        paces, steps = await _rounds(bench, bare)
        in_process_us = bare.mask_us(ENDLESS)
    finally:
        bare.close()
    after = await bench.agentd.metrics()
    note, other = bench.note(PHASE), bench.other

    def pace(name: str, ours: str, base: str, against: str, least: float) -> Figure:
        mine, theirs = _medians(paces, ours, base)
        return Figure(name, mine, "/s", theirs, against, ratio_at_least=least, note=note)

    yield pace("one free stream: tokens", "agentd 1", "bare", BARE, 0.95)
    yield pace("one free stream: tokens", "agentd 1", f"{other.label} 1", other.title, 1.0)
    name = f"{BATCH} free streams together: tokens"
    yield pace(name, f"agentd {BATCH}", f"{other.label} {BATCH}", other.title, 1.0)
    for count in (1, BATCH):
        masked, free = _medians(steps, f"masked {count}", f"free {count}")
        against = "the same server's step without a mask"
        aim = "aim: 3 % of a step on a GPU"
        yield Figure(f"a masked step, batch {count}", masked, "ms", free, against, note=aim)
    name = f"answers that are the same alone and {BATCH} together"
    yield Figure(name, await _equal_percent(bench), "%", at_least=100, note="aim: on a CPU")
    masks = after.get("mask_total", 0.0) - before.get("mask_total", 0.0)
    if masks:
        seconds = after["mask_seconds_total"] - before["mask_seconds_total"]
        yield Figure("one mask, computed and applied", seconds / masks * 1e6, "us")
    else:
        where = "in a process beside: the server's /metrics counts none"
        yield Figure("one mask, computed and applied", in_process_us, "us", note=where)


async def _rounds(bench: Bench, bare: Bare) -> tuple[Sides, Sides]:
    """Return tokens a second, and milliseconds of a step, by side."""
    shape = bench.shape
    paces: Sides = {}
    steps: Sides = {}
    prompt = await bench.agentd.tokenize(stream_body(0, 1, masked=False)["messages"])
    bare.pace(prompt, 4)  # slow the first time
    sizes = ((1, shape.stream_tokens), (BATCH, shape.batch_tokens))
    for server in bench.servers:
        await streams(bench, server, BATCH, 4)  # from here on all prompts are cached
    for _ in range(shape.rounds):
        paces.setdefault("bare", []).append(bare.pace(prompt, shape.stream_tokens))
        for count, tokens in sizes:
            for server in bench.servers:
                answers = await streams(bench, server, count, tokens)
                paces.setdefault(f"{server.label} {count}", []).append(tokens_a_second(answers))
                if server is bench.agentd:
                    steps.setdefault(f"free {count}", []).append(_step_ms(answers))
            answers = await streams(bench, bench.agentd, count, tokens, masked=True)
            steps.setdefault(f"masked {count}", []).append(_step_ms(answers))
    return paces, steps


async def _equal_percent(bench: Bench) -> float:
    """Ask for answers alone, then together; return how many of them are the same text."""
    tokens = bench.shape.batch_tokens
    alone = [await streams(bench, bench.agentd, 1, tokens, first=n) for n in range(BATCH)]
    together = await streams(bench, bench.agentd, BATCH, tokens)
    pairs = list(zip((answers[0] for answers in alone if answers), together, strict=False))
    return 100 * sum(one.text == other.text for one, other in pairs) / BATCH


async def streams(
    bench: Bench,
    server: Server,
    count: int,
    tokens: int,
    *,
    masked: bool = False,
    first: int = 0,
) -> list[Answer]:
    """Run streams side by side, story `first` and on; return those that came to their end."""
    answers = await asyncio.gather(
        *(
            client.chat(
                server,
                stream_body(number, tokens, masked=masked),
                headers={"X-Agentd-Agent": f"stream{number}", "X-Agentd-Session": "1"},
                deadline_s=bench.shape.deadline_s,
            )
            for number in range(first, first + count)
        )
    )
    good = [answer for answer in answers if answer.answered]
    if len(good) < count:
        await bench.after(server, PHASE, len(good), count)
    return good


def stream_body(number: int, tokens: int, *, masked: bool) -> dict[str, Any]:
    content = f"Story {number}: tell of a lighthouse keeper, and go on without an end."
    form = {"response_format": response_format(ENDLESS)} if masked else {}
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "max_tokens": tokens, "temperature": 0, **form, **STREAM}


def tokens_a_second(answers: Sequence[Answer]) -> float | None:
    """Return tokens a second of all streams together, from the first piece to the last."""
    if not any(len(answer.at) > 1 for answer in answers):  # a short one may come in one piece
        return None
    tokens = sum(answer.completion_tokens for answer in answers) - len(answers)
    seconds = max(a.at[-1] for a in answers) - min(a.at[0] for a in answers)
    return tokens / seconds


def _step_ms(answers: Sequence[Answer]) -> float | None:
    """Return the median time between two pieces of a stream, while all of them run."""
    if not any(len(answer.at) > 1 for answer in answers):
        return None
    begin, end = max(a.at[0] for a in answers), min(a.at[-1] for a in answers)
    if begin >= end:  # one after the other
        begin, end = min(a.at[0] for a in answers), max(a.at[-1] for a in answers)
    pairs = [pair for a in answers for pair in zip(a.at, a.at[1:], strict=False)]
    gaps = [after - before for before, after in pairs if begin <= before and after <= end]
    return 1000 * statistics.median(gaps) if gaps else None


def _medians(sides: Sides, ours: str, base: str) -> tuple[float, float | None]:
    """Return ours and the base such that their ratio is the median one of the rounds."""
    found = [(a, b) for a, b in zip(sides[ours], sides[base], strict=True) if a is not None]
    if not found:
        raise NoAnswer(f"{PHASE}: {ours}")
    both = [(a, b) for a, b in found if b is not None]
    if not both:
        return statistics.median(a for a, _ in found), None
    base_value = statistics.median(b for _, b in both)
    return base_value * statistics.median(a / b for a, b in both), base_value
