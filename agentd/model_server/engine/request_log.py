"""The model server's log of its requests: one line for each, when it is over."""

from typing import Any, Protocol

from agentd.model_server.calls import Call


class Log(Protocol):
    """A structlog logger, or anything like one."""

    def info(self, event: str, **keys: Any) -> Any:
        """Write a line."""
        ...

    def error(self, event: str, **keys: Any) -> Any:
        """Write a line."""
        ...


def log_finished(log: Log, call: Call, reason: str, now: float) -> None:
    """Write the line of a call that is over; `now` is monotonic, as the call's own times are."""
    first = call.first_token_at
    log.info(
        "request.finished",
        agent=call.agent or "model",
        session_id=_session_id(call.session),
        priority=str(call.priority),
        prompt_tokens=call.prompt_tokens,
        cached_tokens=call.cached_tokens,
        completion_tokens=call.completion_tokens,
        queue_ms=milliseconds((call.admitted_at or now) - call.queued_at),
        ttft_ms=milliseconds(first - call.queued_at) if first is not None else None,
        duration_ms=milliseconds(now - call.queued_at),
        finish_reason=reason,
        **({"scores": call.scoring.done} if call.scoring else {}),
    )


def _session_id(session: str | None) -> int | str | None:
    """Return the session as other processes log it: our own are numbers."""
    return int(session) if session is not None and session.isdecimal() else session


def milliseconds(seconds: float) -> float:
    """Return seconds as the log shows them."""
    return round(seconds * 1000, 1)
