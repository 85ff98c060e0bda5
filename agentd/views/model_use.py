"""How the model was used over an hour or a day, from what its server logged of each request."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from agentd.clock import Clock, SystemClock, iso, moment_or
from agentd.logs.newest import READ_BYTES_MAX, ReadBudget, entries_back
from agentd.paths import Paths

MODEL = "model"  # what the model server is called in the logs
FINISHED = "request.finished"
Span = Literal["hour", "day"]
# By span: how long it is, and a sample of it.
SPANS: Mapping[Span, tuple[timedelta, timedelta]] = {
    "hour": (timedelta(hours=1), timedelta(minutes=1)),
    "day": (timedelta(days=1), timedelta(minutes=15)),
}
HIGH = 0.95  # the share of requests that were at most so slow


@dataclass(frozen=True)
class _Finished:
    """One request; moments are seconds since the span began."""

    queued: float
    admitted: float
    first_token: float | None
    ended: float
    prompt: int
    cached: int
    completion: int


def model_use(
    paths: Paths,
    span: Span = "hour",
    *,
    clock: Clock | None = None,
    bytes_max: int = READ_BYTES_MAX,
) -> dict[str, Any]:
    """Return samples of equal length, the oldest first, and the sums of all.

    A sample has `at` (UTC, its beginning), and of the requests that ended in it: requests, queue_s
    and first_token_s (middle and high: 95 % took no longer), tokens_per_s (while an answer was
    written), cached (the share of prompt tokens that were known), and of its whole time batch (the
    most requests at once). A value is null where there was no request. `since` is later than the
    span's beginning where the log was too long to read all of it.
    """
    length, step = SPANS[span]
    now = (clock or SystemClock()).now()
    # Samples begin at whole minutes, so that a later look has the same ones.
    step_s = step.total_seconds()
    end = datetime.fromtimestamp(-(-now.timestamp() // step_s * step_s), UTC)
    begin = end - length
    budget, requests = ReadBudget(bytes_max), []
    oldest = iso(begin)
    since = oldest
    for ts, _, entry in entries_back(paths.log(MODEL), budget):
        if ts < oldest:
            break
        since = ts
        if entry.get("event") == FINISHED and (request := _read(ts, entry, begin)):
            requests.append(request)
    number = round(length / step)
    by_sample: list[list[_Finished]] = [[] for _ in range(number)]
    for request in requests:
        by_sample[min(number - 1, int(request.ended // step_s))].append(request)
    batches = _batches(requests, number, step_s)
    return {
        "span": span,
        "step_s": step_s,
        "since": since if budget.spent else oldest,
        "until": iso(now),
        "samples": [
            {"at": iso(begin + n * step), **_sample(found), "batch": batches[n]}
            for n, found in enumerate(by_sample)
        ],
        "total": {**_sample(requests), "batch": max(batches)},
        "prompt_tokens": sum(request.prompt for request in requests),
        "completion_tokens": sum(request.completion for request in requests),
    }


def _read(ts: str, entry: Mapping[str, Any], begin: datetime) -> _Finished | None:
    """Return what a line tells; None for one that was written by something else."""
    ended = (moment_or(ts, begin) - begin).total_seconds()
    try:
        queued = ended - entry["duration_ms"] / 1000
        first = entry["ttft_ms"]
        return _Finished(
            queued,
            queued + entry["queue_ms"] / 1000,
            None if first is None else queued + first / 1000,
            ended,
            *(int(entry[f"{kind}_tokens"]) for kind in ("prompt", "cached", "completion")),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _sample(requests: Iterable[_Finished]) -> dict[str, Any]:
    requests = list(requests)
    waits = [request.admitted - request.queued for request in requests]
    firsts = [r.first_token - r.queued for r in requests if r.first_token is not None]
    wrote_s = sum(r.ended - r.first_token for r in requests if r.first_token is not None)
    written = sum(r.completion for r in requests if r.first_token is not None)
    prompt = sum(request.prompt for request in requests)
    return {
        "requests": len(requests),
        "queue_s": _spread(waits),
        "first_token_s": _spread(firsts),
        "tokens_per_s": round(written / wrote_s, 1) if wrote_s > 0 else None,
        "cached": round(sum(r.cached for r in requests) / prompt, 4) if prompt else None,
    }


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(HIGH * len(ordered)))]
    return {"middle": round(ordered[len(ordered) // 2], 4), "high": round(high, 4)}


def _batches(requests: Iterable[_Finished], number: int, step_s: float) -> list[int]:
    """Return the most requests that had a slot at once, by sample."""
    changes = [(r.admitted, 1) for r in requests] + [(r.ended, -1) for r in requests]
    most, now, at = [0] * number, 0, 0
    for moment, change in sorted(changes):
        sample = min(number - 1, max(0, int(moment // step_s)))
        for n in range(at, sample + 1):  # what runs on through a sample counts in it
            most[n] = max(most[n], now)
        at, now = sample, now + change
        most[at] = max(most[at], now)
    return most
