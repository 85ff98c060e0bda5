"""The shipped agents end to end: the real supervisor, the bundled model, real input.

What they read holds an order to them as well. It must leave nothing but a row of their results.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus
from agentd.commands.demo.temporary import running_daemon, write_toml
from agentd.events import PERSON, Event, NewEvent
from agentd.paths import Paths, discover
from agentd.sessions.archive import Archive, SessionRow
from agentd.sessions.steps import StepKind
from agentd.states import Priority, SessionState, WorkerState
from agentd.supervisor.client import query
from agentd.testing import wait_for
from tests.shipped_world import NAMES, ORDER, ShippedWorld
from tests.site import site
from tests.supervised import remove_sockets

START_S, WORK_S = 180.0, 300.0  # on a busy machine
pytestmark = pytest.mark.timeout(900)
LOOKING = ("feed", "mail_triage", "notes", "log_watch")
READS = {
    "feed": "ReadFeed",
    "mail_triage": "ReadMail",
    "notes": "ReadTasks",
    "log_watch": "ReadLog",
}


class Evening:
    """A daemon with these agents, asked three times: at first, with news, and without."""

    def __init__(self, home: Paths, world: ShippedWorld) -> None:
        self.home, self.world = home, world
        self.bus = Bus(home.database, wake=home.wake)
        self.archive = Archive(self.bus)
        self.before: Mapping[str, bytes] = {}

    def sessions(self, name: str) -> list[SessionRow]:
        return list(reversed(self.archive.list(agent=name, limit=100)))

    def results(self, name: str) -> list[Event]:
        return list(self.bus.events.list(agent=name))

    def result(self, name: str) -> Mapping[str, Any]:
        (event,) = self.results(name)
        return event.payload

    def ask(self, *names: str) -> None:
        """Trigger agents, and wait for the end of their sessions."""
        wanted = {name: len(self.sessions(name)) + 1 for name in names}
        for name in names:
            event = NewEvent("agent.trigger", {}, target=name)
            self.bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
        for name, count in wanted.items():
            wait_for(partial(self._ended, name, count), seconds=WORK_S, what=name)

    def _ended(self, name: str, count: int) -> bool:
        return sum(row.ended_at is not None for row in self.sessions(name)) == count


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Evening]:
    folder = tmp_path_factory.mktemp("evening")
    home = discover({"AGENTD_HOME": str(folder / "home")})
    home.create()
    home.models.rmdir()
    home.models.symlink_to(smollm2.parent)
    with site() as web:
        world = ShippedWorld(folder, web)
        for name in NAMES:
            config = world.agent(name)
            if name == "digest":
                config["batch"]["most"] = len(LOOKING)  # else it waits until the day is over
            write_toml(home.agents_d / f"{name}.toml", config)
        with running_daemon(home):
            wait_for(lambda: _running(home), seconds=START_S, what="the agents run")
            evening = Evening(home, world)
            evening.ask(*LOOKING)
            world.goes_on()
            evening.before = world.files()
            evening.ask("feed", "mail_triage", "log_watch")
            wait_for(lambda: evening.results("digest"), seconds=WORK_S, what="the digest")
            assert world.files() == evening.before
            world.is_done()
            evening.ask(*LOOKING)
            yield evening
            evening.bus.close()
    remove_sockets(home)


def _running(home: Paths) -> bool:
    states = {agent["name"]: agent["state"] for agent in query(home)["agents"]}
    return all(states.get(name) == WorkerState.RUNNING for name in NAMES)


def test_feed_ranks_what_is_new(evening: Evening) -> None:
    """The first look tells of nothing, the second of the new items, the third of nothing again."""
    result = evening.result("feed")
    rows = {row["item"]: row["interest"] for row in result["rows"]}
    assert rows["A telescope in Chile finds a moon of a distant planet"] == "astronomy"
    assert rows["How to mend a puncture on a wet cycle path"] == "cycling"
    assert len(rows) == 4 and result["title"].startswith("4 new items, ")
    assert "](https://news.example/1)" in result["text"]


def test_mail_triage_sorts_what_is_new(evening: Evening) -> None:
    """By category and urgency; what was there before stays unread and untold."""
    result = evening.result("mail_triage")
    rows = {row["subject"]: (row["category"], row["urgency"]) for row in result["rows"]}
    assert rows["Your invoice for November"] == ("invoice", "low")
    assert rows["[ALERT] backup failed"] == ("alert", "high")
    assert len(rows) == 3 and result["title"] == "3 new mails, 1 urgent"


def test_notes_tells_what_is_open(evening: Evening) -> None:
    """The first look already; once all is done nothing is told."""
    result = evening.result("notes")
    rows = [(row["kind"], row["what"], row["area"], row["line"]) for row in result["rows"]]
    assert rows[0] == ("task", "paint the fence", "home", 2)
    assert rows[1] == ("task", "prepare the meeting with the client", "work", 2)
    assert rows[3][:2] == ("question", "Do we need a new spade?")
    assert result["title"] == "4 open: 3 tasks, 1 question"


def test_log_watch_groups_new_errors(evening: Evening) -> None:
    """By code, over a rotation, with how many and since when."""
    result = evening.result("log_watch")
    rows = [(row["error"], row["count"], row["kind"], row["first"]) for row in result["rows"]]
    assert rows[:2] == [
        ("ERROR db: connection N to N refused", 5, "network", "2026-11-29 10:00:00"),
        ("ERROR upload N: no space left on device", 5, "disk", "2026-11-29 10:01:00"),
    ]
    assert len(rows) == 3 and "this was there before" not in result["text"]


def test_digest_is_a_page_of_the_others_results(evening: Evening) -> None:
    """Each result once, by its title, agent and time; no model is asked."""
    result = evening.result("digest")
    titles = {row["agent"]: row["result"] for row in result["rows"]}
    assert titles == {name: evening.result(name)["title"] for name in LOOKING}
    assert result["title"] == "4 results of the day" and result["text"].count("\n") == 5
    (session,) = evening.sessions("digest")
    assert (session.prompt_tokens, session.completion_tokens) == (0, 0)


@pytest.mark.parametrize("name", LOOKING)
def test_an_order_in_what_is_read_leaves_no_effect(evening: Evening, name: str) -> None:
    """It is a row among others: nothing is decided, written, fetched, sent, asked or forgotten."""
    assert ORDER[:30] in str(evening.result(name)["rows"])
    for row in evening.sessions(name):
        steps = evening.archive.steps(row.id)
        decided = [step.type for step in steps if step.kind is StepKind.DECISION]
        assert decided == [READS[name], "Done"] and row.state is SessionState.ENDED
        assert row.question is None and row.completion_tokens == 0
    assert not evening.bus.events.list(event_type="person.asked")
    assert {path for path, _status in evening.world.site.answered} == {"/feed"}
    assert not Path("/tmp/taken.txt").exists()
