"""Counters of the server, in Prometheus' text format."""

import threading
from collections import deque
from collections.abc import Mapping

from agentd.model_server.calls import Call

WINDOW = 1024  # last observations that quantiles are taken of
QUANTILES = (0.5, 0.95, 0.99)

ENGINE_COUNTERS = (
    "decode_steps_total",
    "decode_seconds_total",
    "decode_rows_total",
    "prefill_tokens_total",
    "prefill_seconds_total",
    "prefill_failures_total",  # of passes with several prompts, which are then read alone
    "mask_total",
    "mask_seconds_total",
    "cache_failures_total",
)


class Summary:
    """A Prometheus summary: count and sum of all, quantiles of the last ones. Not thread-safe."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._last: deque[float] = deque(maxlen=WINDOW)

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        self.count += 1
        self.sum += seconds
        self._last.append(seconds)

    def lines(self, name: str) -> list[str]:
        """Return the exposition's lines."""
        ordered = sorted(self._last)
        lines = [f"# TYPE {name} summary"]
        for q in QUANTILES if ordered else ():
            value = ordered[min(len(ordered) - 1, int(q * len(ordered)))]
            lines.append(f'{name}{{quantile="{q:g}"}} {value:.6f}')
        return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {self.count}"]


class Metrics:
    """Counts calls. `decode_gap` is the engine thread's; the rest is usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}  # by outcome
        self._tokens = dict.fromkeys(("prompt", "cached", "completion"), 0)
        self._scores = 0
        self._queue_wait = Summary()
        self._first_token = Summary()  # from the arrival, the queue included
        self._duration = Summary()
        self.decode_gap = Summary()  # between two deliveries of one call

    def finished(self, call: Call, outcome: str, now: float) -> None:
        """Count a call that ended at `now` on the monotonic clock."""
        with self._lock:
            self._requests[outcome] = self._requests.get(outcome, 0) + 1
            if call.admitted_at is None:
                return
            self._tokens["prompt"] += call.prompt_tokens
            self._tokens["cached"] += call.cached_tokens
            self._tokens["completion"] += call.completion_tokens
            self._scores += call.scoring.done if call.scoring else 0
            self._queue_wait.observe(call.admitted_at - call.queued_at)
            self._duration.observe(now - call.queued_at)
            if call.first_token_at is not None:
                self._first_token.observe(call.first_token_at - call.queued_at)

    def render(self, values: Mapping[str, float]) -> str:
        """Return the text of GET /metrics; names in `values` that end in _total are counters."""
        with self._lock:
            lines = ["# TYPE agentd_requests_total counter"]
            lines += [
                f'agentd_requests_total{{outcome="{outcome}"}} {count}'
                for outcome, count in sorted(self._requests.items())
            ]
            tokens = {f"{name}_tokens_total": count for name, count in self._tokens.items()}
            for name, value in {**tokens, "scores_total": self._scores, **values}.items():
                kind = "counter" if name.endswith("_total") else "gauge"
                lines += [f"# TYPE agentd_{name} {kind}", f"agentd_{name} {value:.12g}"]
            lines += self._queue_wait.lines("agentd_queue_seconds")
            lines += self._first_token.lines("agentd_first_token_seconds")
            lines += self._duration.lines("agentd_request_seconds")
            lines += self.decode_gap.lines("agentd_decode_gap_seconds")
        return "\n".join(lines) + "\n"
