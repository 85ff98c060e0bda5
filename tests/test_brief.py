"""The agent brief, and ReadResults, by which it learns what other agents found."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.admission.admit import admit
from agentd.bus import Bus
from agentd.config.agent import Permissions
from agentd.errors import ConfigError, ToolError
from agentd.events import NewEvent
from agentd.paths import discover
from agentd.testing import run_agent
from agentd.testing.waiting import ManualClock
from agentd.tools.recall import RESULTS
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox

DAILY = (
    "BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:1\nDTSTART:20260101T090000\nDTEND:20260101T100000\n"
    "RRULE:FREQ=DAILY\nSUMMARY:{title}\nLOCATION:Room 2\nEND:VEVENT\nEND:VCALENDAR\n"
)
EVIL = "[pay](http://evil.example) <b>now</b>"


def brief(tmp_path: Path, model: Any = (), facts: Any = None, **params: Any) -> Any:
    config = {"params": params, "permissions": {"read": [str(tmp_path)]}}
    return run_agent("brief", NewEvent("schedule.fired"), model, config=config, facts=facts)


def test_the_page_has_calendar_and_tasks_without_a_model(tmp_path: Path) -> None:
    """No news are no reason to be silent about the day; what others wrote is no markup."""
    (tmp_path / "c.ics").write_text(DAILY.format(title=EVIL))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text(f"- [x] done\n- [ ] water the plants\n- [ ] {EVIL}\n")
    run = brief(tmp_path, calendar=[f"{tmp_path}/c.ics"], notes=[f"{tmp_path}/notes"])
    (page,) = run.events("brief.written")
    assert page["title"] == "Thursday 2026-01-15: 1 appointment, 2 open tasks"
    assert page["text"].splitlines() == [
        "## Calendar",
        "",
        "* 09:00 \\[pay\\](http:\\//evil.example) \\<b\\>now\\</b\\>, Room 2",
        "",
        "## Open tasks",
        "",
        "* water the plants (a.md)",
        "* \\[pay\\](http:\\//evil.example) \\<b\\>now\\</b\\> (a.md)",
    ]
    assert run.outcome == {"appointments": 1, "tasks": 2, "results": 0}


def test_nothing_at_all_is_no_event(tmp_path: Path) -> None:
    """A person hears nothing of an empty day, also with words: then no model is asked either."""
    for words in (False, True):
        run = brief(tmp_path, words=words)
        assert run.error is None and run.published == [] and run.outcome == {"nothing": True}


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """It takes the others not with it, and is not passed over in silence."""
    (tmp_path / "c.ics").write_text("junk")
    (tmp_path / "a.md").write_text("- [ ] call Ada\n")
    run = brief(tmp_path, calendar=[f"{tmp_path}/c.ics"], notes=[f"{tmp_path}/a.md"])
    (page,) = run.events("brief.written")
    assert page["title"].endswith(": 1 open task")
    assert "## Could not be read\n\n* " in page["text"] and "is no calendar" in page["text"]


def test_with_words_the_model_says_one_sentence(tmp_path: Path) -> None:
    """It stands on top, and is markup as little as all else."""
    (tmp_path / "a.md").write_text("- [ ] call Ada\n")
    said = [("Done", {"sentence": "Call Ada, [today](http://x.example)."})]
    run = brief(tmp_path, said, notes=[f"{tmp_path}/a.md"], words=True)
    (page,) = run.events("brief.written")
    first = page["text"].splitlines()[0]
    assert first == "Call Ada, \\[today\\](http:\\//x.example)."


def test_many_lines_are_counted(tmp_path: Path) -> None:
    """The page stays one: the rest is a number."""
    (tmp_path / "a.md").write_text("".join(f"- [ ] task {n}\n" for n in range(20)))
    (page,) = brief(tmp_path, notes=[f"{tmp_path}/a.md"]).events("brief.written")
    assert page["text"].splitlines()[-1] == "* and 5 more" and page["tasks"] == 20


# --- ReadResults


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path / "bus.db", clock=ManualClock())
    yield bus
    bus.close()


def reader(bus: Bus, memory: Any = None) -> Toolbox:
    tools = Toolbox(Permissions(), clock=bus.clock)
    tools.session = SessionView(news=partial(bus.events.news, "brief"), memory=memory or {})
    return tools


def publish(bus: Bus, agent: str, kind: str, target: str | None = None, **payload: Any) -> None:
    bus.publish(agent, NewEvent(kind, payload, target=target))


def test_results_of_listed_types_come_once(bus: Bus) -> None:
    """Of other agents alone; what comes later comes the next time, what was read does not."""
    publish(bus, "mail", "mail.triaged", title="3 new mails", rows=[{}, {}, {}])
    publish(bus, "mail", "mail.noted", note="no title, no result")
    publish(bus, "brief", "mail.own", title="its own")
    publish(bus, "mail", "mail.told", target="other", title="for another")
    publish(bus, "review", "review.done", title="not listed")
    types = {"types": ["mail.*"]}
    first = reader(bus).call("ReadResults", types)
    (result,) = first.value["results"]
    assert (result["agent"], result["title"], result["rows"]) == ("mail", "3 new mails", 3)
    assert not first.trusted
    assert reader(bus, first.remember).call("ReadResults", types).value == {"results": []}
    publish(bus, "mail", "mail.triaged", title="1 new mail")
    again = reader(bus, first.remember).call("ReadResults", types)
    assert [one["title"] for one in again.value["results"]] == ["1 new mail"]
    # Other types are another question, with a memory of its own.
    assert (
        reader(bus, first.remember).call("ReadResults", {"types": ["review.done"]}).value["results"]
    )


def test_the_first_time_a_day_is_read_and_never_more_than_fifty(bus: Bus) -> None:
    """A new agent does not tell the past, and a flood is counted; the newest count."""
    clock = bus.clock
    assert isinstance(clock, ManualClock)
    publish(bus, "feed", "feed.read", title="of old")
    clock.advance(timedelta(days=2).total_seconds())
    for number in range(RESULTS + 3):
        publish(bus, "feed", "feed.read", title=f"number {number}")
    value = reader(bus).call("ReadResults", {"types": ["feed.read"]}).value
    titles = [one["title"] for one in value["results"]]
    assert titles == [f"number {n}" for n in range(3, RESULTS + 3)] and value["more"] == 3


def test_a_type_is_no_pattern_of_files(bus: Bus) -> None:
    """Nothing else than an exact type or a prefix reads anything."""
    publish(bus, "feed", "feed.read", title="x")
    for wrong in ("*", "[a-z]*", "feed?read", ""):
        with pytest.raises(ToolError):
            reader(bus).call("ReadResults", {"types": [wrong]})


def test_no_model_says_which_results_it_reads(tmp_path: Path) -> None:
    """What an agent reads of others is for its file to say: a text could name more."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    toml = 'agent = "task"\ndone = "It is read."\n[params]\ninstructions = "Read."\n'
    (paths.agents_d / "x.toml").write_text(toml + 'tools = ["ReadResults"]\n')
    with pytest.raises(ConfigError, match="ReadResults is no decision of a model"):
        admit("x", paths)


def test_a_task_agent_reads_results_as_a_first_step() -> None:
    """An agent of ten lines can go by what others found."""
    config = {
        "params": {
            "first": [{"ReadResults": {"types": ["mail.*"]}}],
            "each": "ReadResults.results",
            "skip_if": "nothing new",
            "publish": "found.listed",
        },
        "result": {"what": {"from": "title"}},
    }
    run = run_agent("task", NewEvent("schedule.fired"), [], config=config)
    assert run.error is None and run.outcome == {"skipped": "nothing new"}
