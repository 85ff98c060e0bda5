"""Crontab expressions: what they mean, on every day of every zone, and which are refused."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from agentd.config.agent import Cron
from agentd.config.cron import Crontab

MINUTE = timedelta(minutes=1)


def runs(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return all runs from `start` to before `end`."""
    cron, found = Crontab(expression), []
    run = cron.after(start - timedelta(seconds=1), ZoneInfo(zone))
    while run is not None and run < end:
        found.append(run)
        run = cron.after(run, ZoneInfo(zone))
    return found


def day_of(zone: str, day: str) -> tuple[datetime, datetime]:
    """Return the first instant of a local date and that of the next, by counting minutes."""
    date = datetime.fromisoformat(day).date()
    moment = datetime.combine(date, datetime.min.time(), UTC) - timedelta(hours=30)
    while moment.astimezone(ZoneInfo(zone)).date() < date:
        moment += MINUTE
    end = moment
    while end.astimezone(ZoneInfo(zone)).date() == date:
        end += MINUTE
    return moment, end


GAPS_AT_MIDNIGHT = [
    ("Asia/Beirut", "2026-03-29"),
    ("Africa/Cairo", "2026-04-24"),
    ("America/Asuncion", "2023-10-01"),
    ("America/Santiago", "2026-09-06"),
    ("America/Havana", "2026-03-08"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("Asia/Tehran", "2022-03-22"),
    ("Asia/Amman", "2022-02-25"),
    ("America/Scoresbysund", "2023-03-26"),
]


@pytest.mark.parametrize(
    "expression", ["0 0 * * *", "30 0 * * *", "0,15,59 0 * * *", "7 0 * * 0-7"]
)
@pytest.mark.parametrize(("zone", "day"), GAPS_AT_MIDNIGHT)
def test_a_day_without_its_midnight_runs_at_its_first_instant(
    zone: str, day: str, expression: str
) -> None:
    """Clocks that go forward at midnight take no day away from a daily run, and double none."""
    start, end = day_of(zone, day)
    assert end - start == timedelta(hours=23)
    assert runs(expression, zone, start, end) == [start]
    assert len(runs(expression, zone, start, end + timedelta(hours=1))) > 1, "the next day runs"


@pytest.mark.parametrize(
    ("zone", "day", "expression", "local"),
    [
        ("Europe/Berlin", "2026-03-29", "30 2 * * *", "03:00"),
        ("America/New_York", "2026-03-08", "59 2 * * *", "03:00"),
        ("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", "02:30"),
        ("Australia/Lord_Howe", "2026-10-04", "30 2 * * *", "02:30"),
        ("Africa/Casablanca", "2026-03-22", "30 2 * * *", "03:00"),  # Ramadan ends
        ("Africa/Casablanca", "2026-02-15", "30 2 * * *", "02:30"),  # it begins: comes twice
        ("Europe/Berlin", "2026-10-25", "0 2 * * *", "02:00"),
        ("Australia/Lord_Howe", "2026-04-05", "45 1 * * *", "01:45"),
        ("America/Havana", "2026-11-01", "30 0 * * *", "00:30"),
        ("Asia/Beirut", "2026-10-24", "30 23 * * *", "23:30"),  # the last hour comes twice
        ("Pacific/Apia", "2011-12-31", "0 0 * * *", "00:00"),
    ],
)
def test_a_daily_run_comes_once_on_both_daylight_saving_days(
    zone: str, day: str, expression: str, local: str
) -> None:
    """In the first pass of what the clocks repeat; after the gap of what they leave out."""
    (run,) = runs(expression, zone, *day_of(zone, day))
    assert run.astimezone(ZoneInfo(zone)).strftime("%H:%M") == local
    assert run.astimezone(ZoneInfo(zone)).fold == 0


def test_a_day_that_a_zone_leaves_out_runs_when_it_would_have_ended() -> None:
    """30 December 2011 never was in Samoa: its run comes at the first instant of the 31st."""
    start, end = day_of("Pacific/Apia", "2011-12-31")
    nine = start + timedelta(hours=9)
    assert runs("0 9 * * *", "Pacific/Apia", start - timedelta(hours=24), end) == [
        nine - timedelta(hours=24),
        start,
        nine,
    ]
    assert runs("0 9 30 12 *", "Pacific/Apia", start - timedelta(days=9), end) == [start]
    assert runs("*/30 9 30 12 *", "Pacific/Apia", start - timedelta(days=9), end) == []


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        *GAPS_AT_MIDNIGHT,
        ("Europe/Berlin", "2026-03-29"),
        ("Europe/Berlin", "2026-10-25"),
        ("Australia/Lord_Howe", "2026-10-04"),
        ("Australia/Lord_Howe", "2026-04-05"),
        ("Africa/Casablanca", "2026-02-15"),
        ("Africa/Casablanca", "2026-03-22"),
        ("Asia/Kathmandu", "2026-03-22"),
        ("Antarctica/Troll", "2026-03-29"),  # two hours
        ("Asia/Pyongyang", "2018-05-05"),  # half an hour at its end
        ("America/Caracas", "2016-05-01"),  # half an hour, for good
        ("Pacific/Apia", "2011-12-31"),
    ],
)
def test_a_cron_with_a_star_follows_the_clock(zone: str, day: str) -> None:
    """Whatever minute shows a time that it names is a run, also twice; no other minute is one."""
    start, end = day_of(zone, day)
    start, end = start - timedelta(hours=3), end + timedelta(hours=3)
    count = round((end - start) / MINUTE)
    walls = [
        (at := start + n * MINUTE, at.astimezone(ZoneInfo(zone)).strftime("%H:%M"))
        for n in range(count)
    ]
    named_by: list[tuple[str, Callable[[str], bool]]] = [
        ("*/15 * * * *", lambda w: int(w[3:]) % 15 == 0),
        ("30 * * * *", lambda w: w[3:] == "30"),
        ("5 * * * *", lambda w: w[3:] == "05"),
        ("*/10 3 * * *", lambda w: w[:2] == "03" and w[4] == "0"),
        ("*/10 2 * * *", lambda w: w[:2] == "02" and w[4] == "0"),
        ("* 0 * * *", lambda w: w[:2] == "00"),
        ("45 */2 * * *", lambda w: w[3:] == "45" and int(w[:2]) % 2 == 0),
    ]
    for expression, named in named_by:
        expected = [at for at, wall in walls if named(wall)]
        assert runs(expression, zone, start, end) == expected, expression


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("1/2", "Mon Wed Fri Sun"),  # from 1 to the end, which is 7: as 1/2 among the minutes
        ("mon/3", "Mon Thu Sun"),
        ("2/2", "Tue Thu Sat"),
        ("0/3", "Wed Sat Sun"),
        ("1-5/2", "Mon Wed Fri"),
        ("*/3", "Wed Sat Sun"),
        ("*/7", "Sun"),
        ("0,7", "Sun"),
        ("7", "Sun"),
        ("fri-0", "Fri Sat Sun"),
        ("Fri-SUN", "Fri Sat Sun"),
        ("sun-tue", "Mon Tue Sun"),
        ("1-3,sat", "Mon Tue Wed Sat"),
        ("sun-sun", "Sun"),
        ("1#1", "Mon"),
        ("thu#1,6#1", "Thu Sat"),
        ("1#2", ""),
        ("5L", ""),
        ("*", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_weekdays(weekday: str, days: str) -> None:
    """Of the first seven days of June 2026, a Monday to a Sunday."""
    start = datetime(2026, 6, 1, tzinfo=UTC)
    found = runs(f"0 9 * * {weekday}", "UTC", start, start + timedelta(days=7))
    assert " ".join(f"{run:%a}" for run in found) == days


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 9 * * 5L", "2026-06-26"),
        ("0 9 * * 7L", "2026-06-28"),
        ("0 9 * * 1#5", "2026-06-29"),
        ("0 9 L * *", "2026-06-30"),
        ("0 9 LW 5,8-12 *", "2026-08-31"),
        ("0 9 LW 10 *", "2026-10-30"),
        ("0 9 L 2 *", "2027-02-28"),
        ("0 9 29 2 *", "2028-02-29"),
        ("0 9 29 feb */7", "2032-02-29"),
        ("0 9 * aug-dec/2 mon/6", "2026-08-02"),
        ("0 9 13 * 5", "2026-06-05"),
        ("0 9 */13 * 5", "2026-08-14"),
    ],
)
def test_days(expression: str, first: str) -> None:
    """The last ones, the n-th ones, and either of two days unless one of them has a star."""
    run = Crontab(expression).after(datetime(2026, 6, 1, tzinfo=UTC), UTC)
    assert run is not None and f"{run:%Y-%m-%d}" == first


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("0 9 * *", "4 fields"),
        ("0 0 9 * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("", "0 fields"),
        ("60 * * * *", "minute '60'"),
        ("-1 * * * *", "minute '-1'"),
        ("*/0 * * * *", r"minute '\*/0'"),
        ("*/60 * * * *", r"minute '\*/60'"),
        ("*/90 * * * *", r"minute '\*/90'"),
        ("5-5/2 * * * *", "minute '5-5/2'"),
        ("1/2/3 * * * *", "minute '1/2/3'"),
        ("mon * * * *", "minute 'mon'"),
        ("\u0663 * * * *", "minute"),
        ("0 24 * * *", "hour '24'"),
        ("0 22-2 * * *", "hour '22-2'"),
        ("0 0 0 * *", "day '0'"),
        ("0 0 32 * *", "day '32'"),
        ("0 0 15W * *", "day '15w'"),
        ("0 0 L/2 * *", "day 'l/2'"),
        ("0 0 L-3 * *", "day 'l-3'"),
        ("0 0 ? * *", r"day '\?'"),
        ("0 0 * 13 *", "month '13'"),
        ("0 0 * january *", "month 'january'"),
        ("0 0 * nov-feb *", "month 'nov-feb'"),
        *[
            (f"0 9 * * {field}", "weekday '")
            for field in (
                *("8", "-1", "5-1", "mon-", "x", "1-5/0", "1,,2", "2nd", "L", "monL", "8L", "5L/2"),
                *("1#0", "1#6", "#1", "*#1", "1-5#2", "1#2/2", "1##2", "friday", "*-5", "7/2"),
            )
        ],
    ],
)
def test_what_is_no_expression_is_refused(expression: str, what: str) -> None:
    """A typing mistake is one clear error that names the field, and not some other day."""
    with pytest.raises(ValueError, match=f"not a crontab expression: it.*{what}"):
        Cron(cron=expression)


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 31 2 *",
        "0 0 30 feb *",
        "* * 30,31 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 */30 2 1#5",
        "0 0 */10 * 1#4",
    ],
)
def test_what_is_never_due_is_refused(expression: str) -> None:
    """Such a schedule would never run, without a word, and be searched for without an end."""
    with pytest.raises(ValueError, match="never due"):
        Cron(cron=expression)


def test_a_search_ends_with_the_calendar() -> None:
    """A clock that was set to the year 9999 raises nothing."""
    last = datetime(9999, 12, 31, 23, 58, tzinfo=UTC)
    for expression in ("0 0 * * *", "*/5 * * * *", "0 0 29 2 *"):
        assert Crontab(expression).after(last, ZoneInfo("Asia/Tokyo")) is None


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("0 9 * \u017fep *", r"\u017f"),  # its upper() is an S
        ("0 9 * * \ufb01", r"\ufb01"),
        ("0 \u0669 * * *", r"\u0669"),
    ],
)
def test_what_only_looks_like_ascii_is_refused(expression: str, named: str) -> None:
    """Whatever upper() and split() would make of it; the error shows what it is."""
    with pytest.raises(ValueError, match=re.escape(named)):
        Crontab(expression)
