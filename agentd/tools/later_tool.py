"""`Later`: an event of the agent's own, in the future."""

from datetime import UTC, datetime, timedelta

from agentd.bus.later import AHEAD_MAX, OPEN_MAX
from agentd.clock import iso
from agentd.errors import ToolError
from agentd.events import LATER, NewEvent, Result
from agentd.tools.base import ToolCall


def later(call: ToolCall, what: str, in_minutes: int | None, at: str | None) -> Result:
    """Set the event; it is kept with the session's end, like what the session publishes."""
    now = call.clock.now()
    if (in_minutes is None) == (at is None):
        raise ToolError("say when: either in_minutes or at")
    due = now + timedelta(minutes=in_minutes or 0) if at is None else _moment(at)
    if not now < due <= now + AHEAD_MAX:
        raise ToolError(f"{at} is not within the next 90 days")  # minutes always are
    if call.session.open_later() >= OPEN_MAX:
        raise ToolError(f"{OPEN_MAX} are to come already: no more")
    event = NewEvent(LATER, {"what": what, "due": iso(due)})
    return Result({"due": f"{due.astimezone():%Y-%m-%dT%H:%M}"}, publish=(event,))


def _moment(text: str) -> datetime:
    """Return a moment of local time, unless it says how far from UTC."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ToolError(f'{text!r} is no moment; write "2026-12-24T09:00"') from error
