"""Times and amounts as people read them, for templates. Moments are ISO 8601."""

from datetime import UTC, date, datetime, timedelta

from markupsafe import Markup, escape

from agentd.clock import parse_iso
from agentd.terminal import duration, plain

UNITS = ("B", "kB", "MB", "GB", "TB")


def when(moment: str | None) -> Markup | str:
    """Return a moment in local time: the time alone today, else with its day; "" for none."""
    if not moment:
        return ""
    try:
        at = parse_iso(moment).astimezone()
    except ValueError:  # by a person's SQL
        return plain(moment)
    day = "" if at.date() == _today() else f"{_short(at.date())}, "
    full = escape(f"{at:%A} {at.day} {at:%B %Y}, {at:%H:%M:%S}")
    return Markup('<time datetime="{}" title="{}">{}{:%H:%M}</time>').format(
        at.isoformat(), full, day, at
    )


def day(moment: str) -> str:
    """Return a moment's day, as a heading."""
    try:
        at = parse_iso(moment).astimezone().date()
    except ValueError:
        return "at an unknown time"
    if at in _named():
        return _named()[at].capitalize()
    year = "" if at.year == _today().year else f" {at.year}"
    return f"{at:%A}, {at.day} {at:%B}{year}"


def coded(text: str | None) -> Markup:
    """Return a text whose `words in backticks` are code, as commands are in what agentd says."""
    parts = enumerate(map(plain, (text or "").split("`")))
    shown = (Markup("<code>{}</code>").format(p) if at % 2 else escape(p) for at, p in parts)
    return Markup("").join(shown)


def clock(moment: str, *, seconds: bool = False) -> str:
    """Return a moment's time of day, in local time."""
    try:
        at = parse_iso(moment).astimezone()
    except ValueError:
        return moment
    return f"{at:%H:%M:%S}" if seconds else f"{at:%H:%M}"


def took(seconds: float) -> str:
    """Return how long a part of a session took: below a tenth of a second in milliseconds."""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.1 else duration(seconds)


def amount(count: float | None) -> str:
    """Return bytes as "12 MB"; "" for none."""
    if count is None:
        return ""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} {UNITS[-1]}"


def _today() -> date:
    return datetime.now(UTC).astimezone().date()


def _named() -> dict[date, str]:
    today = _today()
    day = timedelta(days=1)
    return {today: "today", today - day: "yesterday", today + day: "tomorrow"}


def _short(at: date) -> str:
    named = _named().get(at)
    if named:
        return named
    return f"{at.day} {at:%b}" + ("" if at.year == _today().year else f" {at.year}")
