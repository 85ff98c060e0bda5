"""`where`: a subscription by payload, asked in SQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.bus import Bus
from agentd.config.agent import AgentConfig
from agentd.config.wakes import fitting
from agentd.events import Lane, NewEvent
from agentd.testing import ManualClock

VALUES = st.one_of(
    st.sampled_from([True, False, 0, 1, 1.0, 2, "1", "a", 'a"b', "ä", "~/x", ""]),
    st.text(max_size=3),
)
PAYLOADS = st.dictionaries(
    st.sampled_from(["repo", "n", "other"]),
    st.one_of(VALUES, st.none(), st.lists(VALUES, max_size=2)),
    max_size=3,
)
WHERE = st.dictionaries(
    st.sampled_from(["repo", "n"]),
    st.one_of(VALUES, st.lists(VALUES, min_size=1, max_size=3)),
    min_size=1,
    max_size=2,
)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path / "agentd.db", clock=ManualClock())
    yield bus
    bus.close()


def fits(payload: dict[str, Any], where: dict[str, Any]) -> bool:
    """The promise, in Python: each field holds one of its values, and true is not 1."""

    def same(a: Any, b: Any) -> bool:
        return (type(a) is bool) == (type(b) is bool) and not isinstance(a, list) and a == b

    for field, wanted in where.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        homes = [str(Path.home() / v[2:]) for v in values if str(v).startswith("~/")]
        if not any(same(payload.get(field), v) for v in (*values, *homes)):
            return False
    return True


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PAYLOADS, max_size=6), WHERE, st.booleans())
def test_events_that_fit_come_and_no_others(
    bus: Bus, payloads: list[dict[str, Any]], where: dict[str, Any], prefix: bool
) -> None:
    """SQL and the promise agree on every payload, by one type and by several."""
    start = bus.events.last_id()
    for number, payload in enumerate(payloads):
        bus.publish("writer", NewEvent("a.b" if number % 2 or not prefix else "a.c", payload))
    lane = Lane("reader", False, ("a.*",) if prefix else ("a.b",), fitting(where))
    bus.db.run("DELETE FROM cursors")
    bus.lanes.open(lane, after=start)
    wanted = [payload for payload in payloads if fits(payload, where)]
    assert bus.lanes.waiting(lane) == len(wanted)
    found = []
    while (event := bus.next(lane)) is not None:
        found.append(event.payload)
        bus.step(lane, event)
    assert found == wanted


def test_what_does_not_fit_is_stepped_over_in_bulk(bus: Bus) -> None:
    """A thousand events of another repository cost no session, and do not hold back pruning."""
    lane = Lane("reader", False, ("a.b",), fitting({"repo": "mine"}))
    bus.lanes.open(lane)
    with bus.transaction():
        for _ in range(1_000):
            bus.publish("writer", NewEvent("a.b", {"repo": "other"}))
    assert bus.next(lane) is None
    assert bus.lanes.slowest() == [(Lane("reader", False), bus.events.last_id())]


def test_retention_expires_only_what_fits(bus: Bus) -> None:
    """What an agent never wanted becomes no dead letter of it."""
    bus.accept("reader", "v", subscribe=("a.b",), where=fitting({"repo": "mine"}))
    for repo in ("mine", "other"):
        bus.publish("writer", NewEvent("a.b", {"repo": repo}))
    lane = next(lane for lane, _ in bus.lanes.slowest() if not lane.direct)
    with bus.transaction():
        bus.lanes.expire(lane, "too old", upto=bus.events.last_id(), rows=10)
    assert [letter.payload for letter in bus.dead.list()] == [{"repo": "mine"}]


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ({"a.b": 1}, "no field at the top"),
        ({'a"': 1}, "no field at the top"),
        ({"repo": {}}, "write a text"),
        ({"repo": []}, "write a text"),
        ({"repo": float("nan")}, "write a text"),
        ({"repo": [None]}, "write a text"),
    ],
)
def test_wrong_where_says_what_to_write(where: dict[str, Any], what: str) -> None:
    """One clear error, before anything runs."""
    with pytest.raises(ValueError, match=what):
        AgentConfig(agent="task", done="it is done", subscribe=("a.b",), where=where)


@pytest.mark.parametrize("key", ["where", "batch"])
def test_it_is_about_a_subscription(key: str) -> None:
    """Without one it would never do anything."""
    given: Any = {"where": {"a": 1}, "batch": {"within": "1m"}}[key]
    with pytest.raises(ValueError, match="`subscribe`, which lists nothing"):
        AgentConfig.model_validate({"agent": "task", "done": "it is done", key: given})
