"""When nothing is sent: quiet hours, and a day's share of messages. By this machine's clock.

A day of messages begins in the morning, where the quiet hours end. Only times of day are compared,
so days on which clocks change need no rule of their own.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

MORNING = time(8)  # where there are no quiet hours


@dataclass(frozen=True)
class Silence:
    """`span`: the quiet hours. `most`: messages a day. `zone`: None is this machine's."""

    span: tuple[time, time] | None
    most: int
    zone: tzinfo | None = None

    @property
    def morning(self) -> time:
        """When a day's messages are counted anew."""
        return self.span[1] if self.span else MORNING

    def day(self, now: datetime) -> str:
        """Return the day that a message at `now` counts for."""
        local = now.astimezone(self.zone).replace(tzinfo=None)
        began = timedelta(hours=self.morning.hour, minutes=self.morning.minute)
        return (local - began).date().isoformat()

    def holds(self, now: datetime, sent: int) -> str:
        """Say why nothing is sent now, when `sent` messages went today; "": it may be."""
        until = f"{self.morning:%H:%M}"
        if self.span is not None:
            begin, end = self.span
            local = now.astimezone(self.zone).time()
            night = begin > end
            if (begin <= local or local < end) if night else (begin <= local < end):
                return f"quiet until {until}"
        return f"{sent} messages went today; the rest goes at {until}" if sent >= self.most else ""
