"""N agents that decide: what a decision takes, prefills and is worth, on both servers."""

import statistics
from collections.abc import AsyncIterator, Sequence

from tests.bench.table import Figure, quantile

from .bench import Bench, NoAnswer
from .workload import Round, count_new, legal, plan, play

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield the figures of each number of agents."""
    for count in bench.shape.agents:
        # Other names for each number: no prompt is known from an earlier phase.
        plans = [plan(f"agent{count}.{number}", bench.shape.turns) for number in range(count)]
        await count_new(plans, bench.agentd)
        rounds = []
        for server in bench.servers:
            shape = bench.shape
            played = await play(server, plans, shape.answer_tokens, shape.deadline_s)
            rounds.append(played)
            await bench.after(server, _name(count), len(played.good), played.asked)
        for figure in _figures(count, rounds, bench):
            yield figure


def _name(count: int) -> str:
    return f"{count} agent{'s' if count > 1 else ''}"


def _figures(count: int, both: Sequence[Round], bench: Bench) -> list[Figure]:
    name = _name(count)
    ours, _theirs = both
    if not ours.good:
        raise NoAnswer(f"{name}: {ours.answers[0][-1].error}")
    note = bench.note(name)

    def row(what: str, unit: str, values: Sequence[float | None], **more: object) -> Figure:
        mine, beside = values
        assert mine is not None
        against = bench.other.title
        return Figure(f"{name}: {what}", mine, unit, beside, against, note=note, **more)  # type: ignore[arg-type]

    tokens = [_rate(r, r.new_tokens + _generated(r)) for r in both]
    length = [_generated(r) / len(r.good) if r.good else None for r in both]
    rows = [row("prefilled per new token", "", [_prefilled(r) for r in both], at_most=1.05)]
    for what, moments in (
        ("time to first token", [[a.first_s for a in r.good] for r in both]),
        ("decision latency", [[a.latency_s for a in r.good] for r in both]),
    ):
        for label, share in QUANTILES.items():
            values = [1000 * quantile(m, share) if m else None for m in moments]
            rows.append(row(f"{what} {label}", "ms", values))
    rows.append(row("generated tokens of a decision", "", length))
    rows.append(row("decisions a second", "/s", [_rate(r, len(r.good)) for r in both]))
    rows.append(row("total tokens a second", "/s", tokens, ratio_at_least=1.0))
    if count > 1:
        rows.append(row("Jain's fairness index", "", [_jain(r) for r in both], at_least=0.95))
    if bench.agentd.masks:
        rows.append(row("valid decisions", "%", [_valid(r) for r in both], at_least=100.0))
    return rows


def _prefilled(played: Round) -> float | None:
    told = any("prompt_tokens_details" in answer.usage for answer in played.good)
    if not played.new_tokens or not told:
        return None
    return sum(a.prompt_tokens - a.cached_tokens for a in played.good) / played.new_tokens


def _generated(played: Round) -> int:
    return sum(answer.completion_tokens for answer in played.good)


def _rate(played: Round, count: int) -> float | None:
    return count / played.seconds if played.good else None


def _jain(played: Round) -> float | None:
    """Return Jain's index over the agents' throughput: 1 is equal, 1/N is one agent gets all.

    An agent's throughput: its answered turns by the time from the start to its last answer.
    """
    if not played.good:
        return None
    paces = []
    for mine in played.answers:
        good = [answer for answer in mine if answer.answered]
        paces.append(len(good) / (good[-1].end - mine[0].sent) if good else 0.0)
    return sum(paces) ** 2 / (len(paces) * sum(pace**2 for pace in paces))


def _valid(played: Round) -> float | None:
    """Return the share of answers that the loop would dispatch: legal, and not closed off."""
    if not played.good:
        return None
    return 100 * statistics.mean(a.finish == "stop" and legal(a.text) for a in played.good)
