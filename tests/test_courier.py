"""What is told, when, how often: couriers on a real database, with a clock that a test moves."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from agentd.bus import Bus
from agentd.config.daemon import RetentionConfig
from agentd.config.delivery import DeliverConfig, TelegramConfig
from agentd.deliver import courier
from agentd.deliver.courier import LAG_S, UNTAKEN, Courier
from agentd.deliver.day_file import DayFile
from agentd.deliver.messages import Message, pieces
from agentd.deliver.position import Positions, forget_ways, noted_of
from agentd.deliver.silence import Silence
from agentd.deliver.telegram import BotApi
from agentd.deliver.ways import MessageWay, Poster, WayFailed
from agentd.errors import StorageError
from agentd.events import ASKED, DELIVER, TEST, NewEvent, is_result, result_of
from agentd.logs.logger import Logger
from agentd.replay.loaded import Quiet
from agentd.states import DeadReason
from agentd.storage.retention import Retention
from agentd.testing import ManualClock
from tests.messengers import result

LATER_S = 60.0  # when nobody waits for more any more


class Sent:
    """A way that keeps what it is given, or fails as it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.failure: WayFailed | None = None

    def send(self, message: Message) -> Mapping[str, Any]:
        """Keep it."""
        if self.failure is not None:
            raise self.failure
        self.messages.append(message)
        return {}

    @property
    def titles(self) -> list[str]:
        """What was sent, in short."""
        return [message.title for message in self.messages]


class Desk:
    """A database, a clock and one way."""

    def __init__(self, path: Path, way: MessageWay | DayFile) -> None:
        self.clock = ManualClock(datetime(2026, 1, 15, 12, 0, tzinfo=UTC))
        self.bus = Bus(path / "agentd.db", clock=self.clock)
        self.way, self.silence = way, Silence(None, 10, UTC)
        self.courier = self.again()

    def again(self, *only: str) -> Courier:
        """Return the courier of a new process."""
        log = cast(Logger, Quiet())
        self.courier = Courier(
            "way", self.way, self.bus, self.silence, only, 5.0, log=log, clock=self.clock
        )
        return self.courier

    def publish(self, *events: NewEvent, agent: str = "mail_triage") -> list[int]:
        """Publish, and let time pass."""
        ids = [self.bus.publish(agent, event, system=True) or 0 for event in events]
        self.clock.advance(LATER_S)
        return ids

    def rounds(self) -> None:
        """Go on until there is nothing more to do."""
        while self.courier.round() == 0:
            pass


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def desk(tmp_path: Path, sent: Sent) -> Iterator[Desk]:
    one = Desk(tmp_path, sent)
    yield one
    one.bus.close()


def asks(session: int, kind: str = "question", question: str = "Which Paris?") -> NewEvent:
    payload = {"session": session, "asked": "d" * 64, "kind": kind, "question": question}
    return NewEvent(ASKED, {**payload, "tool": "WriteFile", "args": {}, "expires": None})


def park(desk: Desk, session: int, question: str = "Which Paris?") -> None:
    """Let a session wait for a person."""
    desk.bus.db.run(
        "INSERT INTO sessions (id, agent, consumer, event_id, delivered_id, event_type, version,"
        " state, started_at, question) VALUES (?, 'a', 'a', 1, 1, 'a.b', '', 'parked', '', ?)",
        (session, question),
    )


# --- what is sent


def test_nothing_is_sent_without_news(desk: Desk, sent: Sent) -> None:
    """No heartbeat, no empty digest; and other events move the cursor, so that these can go."""
    desk.publish(NewEvent("mail.read", {"n": 1}), NewEvent("mail.read", {"title": " "}))
    desk.clock.advance(LAG_S)
    desk.rounds()
    assert sent.messages == []
    assert desk.courier.document()["state"] == "ok"
    assert Positions(desk.bus, "way").read().passed == desk.bus.events.last_id()


def test_what_was_there_before_is_not_sent(tmp_path: Path, sent: Sent) -> None:
    """A way that is new begins with what is new: a month of results is no message."""
    bus = Bus(tmp_path / "agentd.db")
    bus.publish("mail_triage", result("old"))
    bus.close()
    desk = Desk(tmp_path, sent)
    desk.publish(result("new"))
    desk.rounds()
    assert sent.titles == ["new"]


def test_one_result_is_sent_with_its_text_and_several_as_a_list(desk: Desk, sent: Sent) -> None:
    desk.publish(result("one", "| a |"))
    desk.rounds()
    desk.publish(result("two"), result("three"))
    desk.rounds()
    assert [(m.title, m.text) for m in sent.messages] == [
        ("one", "| a |"),
        ("2 results", "- mail_triage: two\n- mail_triage: three"),
    ]


def test_news_waits_a_moment_for_more(desk: Desk, sent: Sent) -> None:
    """An agent that publishes row by row is one message."""
    desk.bus.publish("a", result("one"))
    desk.rounds()
    assert sent.messages == []
    desk.clock.advance(4)
    desk.bus.publish("a", result("two"))
    desk.clock.advance(LATER_S)
    desk.rounds()
    assert sent.titles == ["2 results"]


def test_only_listed_results_are_sent_and_all_troubles(desk: Desk, sent: Sent) -> None:
    desk.again("feed", "mail.urgent")
    desk.publish(result("no"))
    desk.publish(result("by type", kind="mail.urgent"))
    desk.rounds()
    desk.publish(result("by agent"), agent="feed")
    desk.rounds()
    desk.publish(NewEvent("agent.parked", {"agent": "x", "reason": "crash loop"}), agent="agentd")
    desk.rounds()
    assert sent.titles == ["by type", "by agent", "x rests: crash loop"]


def test_questions_are_messages_of_their_own(desk: Desk, sent: Sent) -> None:
    """So a person can reply to each. An approval says where it is given, and how."""
    for session in (7, 8):
        park(desk, session)
    park(desk, 9, "May I?")
    desk.publish(result("one"), asks(7), asks(8), asks(9, "approval", "May I?"))
    desk.rounds()
    assert sent.titles == [
        "one",
        "mail_triage asks: Which Paris?",
        "mail_triage asks: Which Paris?",
        "mail_triage wants to do WriteFile: May I?",
    ]
    assert [m.question and m.question.session for m in sent.messages] == [None, 7, 8, None]
    assert sent.messages[3].text == "Only on the machine: agentd answer 9 yes"


def test_an_approval_says_what_a_yes_is_to(desk: Desk, sent: Sent) -> None:
    """On one line, and bounded: two moves are told apart, and nothing of others makes a line."""
    park(desk, 9, "May I?")
    event = asks(9, "approval", "May I?")
    args = {"path": "/a/scan.pdf\n# forged", "to": "/b" + "x" * 500}
    desk.publish(NewEvent(ASKED, {**event.payload, "args": args}))
    desk.rounds()
    (title,) = sent.titles
    assert title.startswith("mail_triage wants to do WriteFile: path /a/scan.pdf # forged, to /bx")
    assert len(title) < 400


@pytest.mark.parametrize("held", [False, True])
def test_a_flood_of_results_hides_no_question(
    desk: Desk, sent: Sent, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results beyond what is read together are counted; what asks or was given up is told."""
    monkeypatch.setattr(courier, "EVENTS_MAX", 2)
    park(desk, 7)
    (first, *_) = desk.publish(*[result(f"no. {n}") for n in range(5)], asks(7), result("last"))
    event = desk.bus.events.get(first)
    assert event is not None
    desk.bus.dead.add("x", DeadReason.FAILED, "failed", event)
    if held:
        desk.silence = Silence(DeliverConfig(quiet="11:00-12:30").silence, 10, UTC)
        desk.again().round()
        assert sent.messages == [] and desk.courier.document()["held"] == 7
        desk.clock.set(datetime(2026, 1, 15, 12, 30, tzinfo=UTC))
    desk.rounds()
    told = "\n".join(f"{message.title}\n{message.text}" for message in sent.messages)
    assert sent.titles[0] == "2 results, and more" and "and 3 more" in sent.messages[0].text
    assert all(told.count(part) == 1 for part in ("Which Paris?", "last", "gave up an event"))


def test_what_nobody_wants_is_passed_page_by_page(
    desk: Desk, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page is read again and again without a pause."""
    monkeypatch.setattr(courier, "EVENTS_MAX", 2)
    desk.again("other")
    desk.publish(*[result(f"no. {n}") for n in range(5)])
    assert [desk.courier.round() for _ in range(3)] == [0.0, 0.0, 5.0]
    assert sent.messages == []


def test_a_question_that_was_answered_meanwhile_is_no_news(desk: Desk, sent: Sent) -> None:
    park(desk, 7)
    desk.publish(asks(7), asks(8))
    desk.rounds()
    assert len(sent.messages) == 1


def test_an_agent_that_rests_again_and_again_is_told_once(desk: Desk, sent: Sent) -> None:
    """Until it was calm for a day; another one is told of all the same."""
    parked = NewEvent("agent.parked", {"agent": "x", "reason": "crash loop"})
    for _ in range(20):
        desk.publish(parked, agent="agentd")
        desk.rounds()
        desk.clock.advance(3600)
    desk.publish(NewEvent("agent.refused", {"agent": "x", "reason": "no"}), agent="agentd")
    desk.rounds()
    desk.clock.advance(25 * 3600)
    desk.publish(parked, agent="agentd")
    desk.rounds()
    assert sent.titles == [
        "x rests: crash loop",
        "x cannot be used: no",
        "x rests: crash loop",
    ]


def test_dead_letters_are_told_once_and_counted(desk: Desk, sent: Sent) -> None:
    (event_id,) = desk.publish(NewEvent("a.b"))
    event = desk.bus.events.get(event_id)
    assert event is not None
    for error in ("first", "token=abcdefgh12345678 failed"):
        desk.bus.dead.add("x", DeadReason.FAILED, error, event)
    desk.clock.advance(LATER_S)
    desk.rounds()
    desk.again()
    desk.rounds()
    (message,) = sent.messages
    assert message.title.startswith("x gave up 2 events, the last: ")
    assert "abcdefgh" not in message.title
    assert message.text == "agentd dead list --agent x"


# --- when


def test_quiet_hours_hold_back_and_end_in_one_message(desk: Desk, sent: Sent) -> None:
    """Also over a new process in the night; what is held is counted, with the reason."""
    desk.silence = Silence(DeliverConfig(quiet="22:00-07:00").silence, 10, UTC)
    desk.again()
    desk.clock.set(datetime(2026, 1, 15, 23, 0, tzinfo=UTC))
    for number in range(3):
        desk.publish(result(f"night {number}"))
        desk.rounds()
    assert sent.messages == []
    told = desk.courier.document()
    assert (told["state"], told["held"], told["why"]) == ("held", 3, "quiet until 07:00")
    desk.again()
    desk.clock.set(datetime(2026, 1, 16, 6, 59, tzinfo=UTC))
    desk.rounds()
    assert sent.messages == []
    desk.clock.set(datetime(2026, 1, 16, 7, 0, tzinfo=UTC))
    desk.rounds()
    assert sent.titles == ["3 results"]


def test_beyond_a_days_share_the_rest_is_one_message_next_morning(desk: Desk, sent: Sent) -> None:
    """And the share counts over new processes."""
    desk.silence = Silence(None, 2, UTC)
    for number in range(5):
        desk.again()
        desk.publish(result(f"no. {number}"))
        desk.rounds()
    assert sent.titles == ["no. 0", "no. 1"]
    assert desk.courier.document()["held"] == 3
    desk.clock.set(datetime(2026, 1, 16, 7, 59, tzinfo=UTC))
    desk.rounds()
    assert len(sent.messages) == 2
    desk.clock.set(datetime(2026, 1, 16, 8, 0, tzinfo=UTC))
    desk.rounds()
    assert sent.titles[2:] == ["3 results"]


@pytest.mark.parametrize(
    ("local", "quiet"),
    [
        ("2026-03-29T01:59:00+01:00", True),  # clocks go on at 2:00
        ("2026-03-29T03:00:00+02:00", False),
        ("2026-10-25T02:30:00+02:00", True),  # clocks go back at 3:00: 2:30 comes twice
        ("2026-10-25T02:30:00+01:00", True),
        ("2026-10-25T03:00:00+01:00", False),
        ("2026-06-01T22:30:00+02:00", True),
        ("2026-06-01T21:59:00+02:00", False),
    ],
)
def test_quiet_hours_go_by_the_clock_on_the_wall(local: str, quiet: bool) -> None:
    """Also on the two days on which clocks change."""
    span = DeliverConfig(quiet="22:00-03:00").silence
    silence = Silence(span, 10, ZoneInfo("Europe/Berlin"))
    assert bool(silence.holds(datetime.fromisoformat(local).astimezone(UTC), 0)) is quiet


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25", "2026-06-01"])
def test_a_days_share_begins_at_eight_also_when_clocks_change(day: str) -> None:
    zone = ZoneInfo("Europe/Berlin")
    silence = Silence(None, 1, zone)
    eight = datetime.fromisoformat(f"{day}T08:00").replace(tzinfo=zone).astimezone(UTC)
    assert silence.day(eight) == day
    assert silence.day(eight - timedelta(minutes=1)) < day
    assert silence.day(eight + timedelta(hours=22)) == day


def test_quiet_at_noon() -> None:
    """A span within a day holds then, and no longer."""
    silence = Silence(DeliverConfig(quiet="12:00-13:00").silence, 10, UTC)
    held = [hour for hour in range(24) if silence.holds(datetime(2026, 1, 1, hour, tzinfo=UTC), 0)]
    assert held == [12]


# --- what fails


def test_a_way_that_fails_is_tried_again_with_longer_waits(desk: Desk, sent: Sent) -> None:
    """Nothing is lost, and what came meanwhile comes as one message after it."""
    sent.failure = WayFailed("no network", hint="plug it in")
    desk.publish(result("one"))
    desk.rounds()
    told = desk.courier.document()
    assert (told["state"], told["problem"]["what"]) == ("failed", "no network")
    sent.failure = None
    desk.clock.advance(4)
    desk.rounds()
    assert sent.messages == []
    desk.publish(result("two"))
    desk.publish(result("three"))
    desk.rounds()
    assert sent.titles == ["one", "2 results"]
    assert desk.courier.document()["problem"] is None


def test_what_a_person_has_to_mend_is_not_tried_all_the_time(desk: Desk, sent: Sent) -> None:
    sent.failure = WayFailed("401", lasting=True)
    desk.publish(result("one"))
    desk.rounds()
    sent.failure = None
    desk.clock.advance(800)
    desk.rounds()
    assert sent.messages == []
    desk.clock.advance(200)
    desk.rounds()
    assert sent.titles == ["one"]


def test_a_message_that_is_never_taken_does_not_stop_the_next_ones(desk: Desk, sent: Sent) -> None:
    """Its way says that there is news, and goes on."""
    sent.failure = WayFailed("400", refused=True)
    desk.publish(result("poison", "text"))
    for _ in range(4):
        desk.rounds()
        desk.clock.advance(1000)
    sent.failure = None
    desk.rounds()
    desk.publish(result("next"))
    desk.rounds()
    assert [m.title for m in sent.messages] == [UNTAKEN, "next"]
    assert sent.messages[0].text == "agentd results"


def test_a_full_disk_sends_nothing_twice(desk: Desk, sent: Sent, monkeypatch: Any) -> None:
    """Where the record is refused, the record is tried again, and not the message."""
    desk.publish(result("one"))
    write = desk.courier._positions.write
    refused: list[Any] = []

    def refuse(position: Any, more: Any = None) -> None:
        if sent.messages and len(refused) < 3:
            refused.append(position)
            raise StorageError("the disk is full")
        write(position, more)

    monkeypatch.setattr(desk.courier._positions, "write", refuse)
    for _ in range(3):
        with pytest.raises(StorageError):
            desk.courier.round()
    desk.rounds()
    assert sent.titles == ["one"] and len(refused) == 3


def test_a_disk_that_is_full_before_keeps_the_message_back(
    desk: Desk, sent: Sent, monkeypatch: Any
) -> None:
    """What could not be recorded would be sent again by each new process."""
    desk.publish(result("one"))

    def refuse(position: Any, more: Any = None) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(desk.courier._positions, "write", refuse)
    with pytest.raises(StorageError):
        desk.courier.round()
    assert sent.messages == []


def test_events_that_were_pruned_unsent_are_counted(desk: Desk, sent: Sent) -> None:
    """A way that was down for longer than events are kept says so."""
    sent.failure = WayFailed("down")
    desk.publish(*(result(f"{n}") for n in range(5)))
    desk.rounds()
    desk.clock.advance(40 * 86400)
    desk.publish(NewEvent("a.b"))
    retention = Retention(desk.bus, RetentionConfig())
    while retention.step() is not None:
        pass
    sent.failure = None
    desk.rounds()
    assert sent.messages == []
    assert desk.courier.document()["lost"] == 5
    assert desk.bus.dead.list() == []


def test_a_test_goes_at_once_and_says_what_came_of_it(desk: Desk, sent: Sent) -> None:
    """In quiet hours as well, beside what is held back, and once."""
    desk.silence = Silence(DeliverConfig(quiet="00:00-23:59").silence, 10, UTC)
    desk.again()
    desk.publish(result("held"))
    (event_id,) = desk.publish(NewEvent(TEST, {}, target=DELIVER), agent="person")
    desk.rounds()
    desk.again()
    desk.rounds()
    assert sent.titles == ["agentd can reach you here"]
    assert noted_of(desk.bus)["test:way"] == {"event": event_id, "problem": ""}
    sent.failure = WayFailed("no network", hint="plug it in")
    desk.publish(NewEvent(TEST, {}, target=DELIVER), agent="person")
    desk.rounds()
    assert noted_of(desk.bus)["test:way"]["problem"] == "no network; plug it in"


def test_a_way_that_was_removed_holds_nothing_back(desk: Desk, sent: Sent) -> None:
    """Its cursor goes, and one that comes back begins with what is new."""
    lanes = {lane.agent for lane, _ in desk.bus.lanes.slowest()}
    assert lanes == {f"{DELIVER}/way"}
    forget_ways(desk.bus, ["way"])
    assert desk.bus.lanes.slowest()
    forget_ways(desk.bus)
    assert desk.bus.lanes.slowest() == [] and noted_of(desk.bus) == {}
    desk.publish(result("while it was gone"))
    desk.again()
    desk.rounds()
    assert sent.messages == []


def test_a_cursor_that_a_person_moved_harms_nobody(desk: Desk, sent: Sent) -> None:
    desk.bus.db.run("UPDATE cursors SET last_seen_id = 99")
    desk.bus.db.run("UPDATE facts SET value = '{\"x\": [1]}'")
    desk.publish(result("one"))
    desk.rounds()
    assert sent.titles in ([], ["one"])
    desk.publish(result("two"))
    desk.rounds()
    assert sent.titles[-1] == "two"


# --- what it looks like


def test_titles_and_texts_of_others_drive_nothing(desk: Desk, sent: Sent) -> None:
    """One line, bounded, without what a terminal or a phone obeys."""
    desk.publish(result("red\x1b[31m\u202e and\nmore " + "x" * 900, "a\x07b\nc" + "y" * 30_000))
    desk.rounds()
    (message,) = sent.messages
    assert message.title.isprintable() and len(message.title) < 300
    assert message.text.startswith("a\\x07b\nc") and len(message.text) < 20_100


@pytest.mark.parametrize(
    ("payload", "kind", "yes"),
    [
        ({"title": "x"}, "a.b", True),
        ({"title": ""}, "a.b", False),
        ({"title": " \n"}, "a.b", False),
        ({"title": 5}, "a.b", False),
        ({"text": "x"}, "a.b", False),
        ({"title": "x"}, "agent.parked", False),
        ({"title": "x", "text": 5}, "a.b", True),
    ],
)
def test_what_a_result_is(desk: Desk, payload: Any, kind: str, yes: bool) -> None:
    desk.bus.publish("a", NewEvent(kind, payload), system=True)
    (event,) = desk.bus.events.list()
    assert is_result(event) is yes
    if yes:
        assert result_of(event) == ("x", "")


@pytest.mark.parametrize("text", ["", "a", "x" * 9000, "😀" * 5000, "line\n" * 3000, "\n" * 9000])
def test_a_long_text_goes_in_pieces_that_telegram_takes(text: str) -> None:
    """4,096 UTF-16 code units, and nothing is lost between two."""
    found = list(pieces(text, 4096))
    assert "".join(found) == text
    assert all(len(piece.encode("utf-16-le")) // 2 <= 4096 for piece in found)
    assert all(found)


def test_a_secret_that_is_no_token_of_a_bot_goes_nowhere() -> None:
    """No address has it, and no fact is named by it, as it would be by a bot's id."""

    class Given(Poster):
        def __init__(self) -> None: ...

        def secret(self, name: str | None) -> str:
            return "swordfish"

    config = TelegramConfig.model_validate({"token": "secret:telegram", "chat_ids": [1]})
    api = BotApi(config, Given())
    for use in (lambda: api.bot, lambda: api.call("getMe")):
        with pytest.raises(WayFailed, match="the secret telegram is no token of a bot") as told:
            use()
        assert "swordfish" not in str(told.value) and told.value.lasting
