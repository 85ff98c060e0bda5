"""Counters of the server, in Prometheus' text format."""

import threading

from agentd.model_server.calls import Call


class Metrics:
    """Counts finished calls. Usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: dict[str, int] = {}  # by outcome
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0

    def finished(self, call: Call, outcome: str) -> None:
        """Count a call that ended."""
        with self._lock:
            self.requests[outcome] = self.requests.get(outcome, 0) + 1
            if call.admitted_at is not None:
                self.prompt_tokens += len(call.prompt)
                self.cached_tokens += call.cached_tokens
                self.completion_tokens += call.completion_tokens

    def render(self, *, waiting: int, running: int, cache_bytes: int) -> str:
        """Return the text that GET /metrics answers."""
        lines = ["# TYPE agentd_requests_total counter"]
        lines += [
            f'agentd_requests_total{{outcome="{outcome}"}} {count}'
            for outcome, count in sorted(self.requests.items())
        ]
        gauges = {"queue_length": waiting, "running": running, "cache_bytes": cache_bytes}
        counters = {
            "prompt_tokens_total": self.prompt_tokens,
            "cached_tokens_total": self.cached_tokens,
            "completion_tokens_total": self.completion_tokens,
        }
        for kind, values in (("gauge", gauges), ("counter", counters)):
            for name, value in values.items():
                lines += [f"# TYPE agentd_{name} {kind}", f"agentd_{name} {value}"]
        return "\n".join(lines) + "\n"
