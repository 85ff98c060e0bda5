"""Events are found by their words: all that is committed, nothing that is gone, by any query."""

import contextlib
import multiprocessing
import os
import signal
from pathlib import Path

import apsw
import pytest

from agentd.bus import Bus, schema
from agentd.bus import search as searching
from agentd.bus.search import Readable
from agentd.clock import parse_iso
from agentd.config.daemon import RetentionConfig
from agentd.errors import ToolError
from agentd.events import Lane, NewEvent
from agentd.paths import discover
from agentd.storage import copies, health
from agentd.storage.repair import repair
from agentd.storage.retention import Retention
from agentd.storage.salvage import TABLES
from agentd.testing import ManualClock
from tests.commandline import agentd


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    return Bus(tmp_path / "agentd.db", clock=ManualClock())


def add(bus: Bus, title: str, kind: str = "note.added", agent: str = "me", **more: str) -> int:
    event_id = bus.publish(agent, NewEvent(kind, {"title": title}, **more))
    assert event_id is not None
    return event_id


def found(bus: Bus, words: str, limit: int = 100, **how: object) -> list[int]:
    return [one.event.id for one in bus.search.find(words, limit=limit, **how)]  # type: ignore[arg-type]


def test_words_are_found_wherever_they_stand(bus: Bus) -> None:
    """In any text of the payload, the type and the producer; not by the names of fields."""
    deep = NewEvent(
        "repo.read", {"rows": [{"what": "Größe, façade"}, {"n": 7}], "text": "two  three"}
    )
    first = bus.publish("reviewer", deep)
    for words in (
        "größe",
        "GROSSE facade".replace("SS", "ß"),
        "fac",
        "three two",
        "repo",
        "reviewer",
    ):
        assert found(bus, words) == [first], words
    for words in ("rows", "what", "two four", "ize", "7"):
        assert found(bus, words) == [], words
    (one,) = bus.search.find("three", limit=1)
    assert one.excerpt == "Größe, façade two three"


def test_the_newest_come_first_and_an_excerpt_shows_the_words(bus: Bus) -> None:
    """At most `limit` of them; a long text is cut around the first word, visibly."""
    ids = [add(bus, f"invoice {n}") for n in range(5)]
    assert found(bus, "invoice", limit=3) == ids[:1:-1]
    long = add(bus, f"{'x ' * 500}needle{' y' * 500}")
    (one,) = bus.search.find("NEEDLE", limit=9)
    assert one.event.id == long and " needle y" in one.excerpt
    assert one.excerpt.startswith("...") and one.excerpt.endswith("...")
    assert len(one.excerpt) == searching.EXCERPT_CHARACTERS + 6


@pytest.mark.parametrize(
    "words",
    [
        *('"', "'", "*", "-", "a OR", "NOT", "NEAR(", "a AND b)", "words:x", "^a", "{x}: y", "a*b"),
        *(
            "",
            "   ",
            "%",
            "\0",
            "a\0b",
            "\ud800",
            "x\u0301",
            "\U0001e900\U0001e901",
            "\U0001d4b3" * 300,
        ),
        *(
            "foo.bar",
            "l'été",
            "日本語",
            "1+1",
            "a" * 10_000,
            "x " * 5_000,
            "--",
            "; DROP TABLE outbox",
        ),
    ],
)
def test_no_query_is_a_syntax_error(bus: Bus, words: str) -> None:
    """Whatever is typed is looked for as words; without one nothing is found."""
    hit = add(bus, f"{words} 1".encode("utf-8", "replace").decode().replace("\0", " "))
    assert found(bus, words) in ([], [hit])


def test_a_word_with_signs_in_it_is_found(bus: Bus) -> None:
    """As those that it is made of: it stands in the index so."""
    hit = add(bus, "l'été: see foo.bar_baz, 日本語")
    for words in ("l'ete", "FOO.BAR_BAZ", "日本", "été foo"):
        assert found(bus, words) == [hit], words


def test_only_what_may_be_read(bus: Bus) -> None:
    """An agent finds its own events, those addressed to it and types that it reads."""
    own = add(bus, "word", "a.own", agent="one")
    direct = add(bus, "word", "b.direct", target="one")
    read = add(bus, "word", "c.read")
    prefixed = add(bus, "word", "d.some.kind")
    other, addressed = add(bus, "word", "e.other"), add(bus, "word", "c.read", target="two")
    reader = Readable("one", ("c.read", "d.*"))
    assert found(bus, "word", reader=reader) == [prefixed, read, direct, own]
    assert found(bus, "word", reader=Readable("nobody")) == []
    assert found(bus, "word") == [addressed, other, prefixed, read, direct, own]
    assert found(bus, "word", agent="one") == [own]
    assert found(bus, "word", since=parse_iso("2999-01-01T00:00:00.000Z")) == []


def test_rows_by_hand_and_of_old_are_found(bus: Bus) -> None:
    """Also what was there before the index was, JSON5, and a row that can be no event is passed."""
    add(bus, "old word")
    bus.db.run("DELETE FROM outbox_words WHERE rowid = 1")  # as a migration leaves it
    for payload in ("{title: 'a word',}", '{"t": "' + "\\ud800" + ' word"}', '{"t": "word"}'):
        bus.db.run(
            "INSERT INTO outbox (agent, event_type, payload) VALUES ('me', 'by.hand', ?)",
            (payload,),
        )
    assert found(bus, "word") == [4, 1], "JSON5 has no words here, half a character is no event"
    assert found(bus, "hand") == [4, 2]


def test_a_search_that_has_much_to_take_up_can_be_stopped(bus: Bus) -> None:
    """It asks between its short transactions, and the next one goes on from there."""
    with bus.transaction():
        for _ in range(searching.ROWS + 10):
            add(bus, "word")

    def stop() -> None:
        raise ToolError("took too long")

    with pytest.raises(ToolError):
        bus.search.find("word", limit=1, check=stop)
    assert bus.search.index() == 10 and bus.search.index() == 0


def test_what_is_pruned_is_not_in_the_index(bus: Bus) -> None:
    """In the same transaction, by age; also words of rows that a person deleted."""
    clock = bus.clock
    assert isinstance(clock, ManualClock)
    for n in range(30):
        add(bus, f"word{n}")
    bus.search.index()
    bus.db.run("DELETE FROM outbox WHERE id < 11")
    assert found(bus, "word10") == [11] and found(bus, "word5") == []
    clock.advance(40 * 86_400)
    last = add(bus, "word99")
    retention = Retention(bus, RetentionConfig())
    while retention.step() is not None:
        pass
    assert found(bus, "word99") == [last]
    assert [row[0] for row in bus.db.run("SELECT id FROM outbox_words_docsize")] == [last]
    bus.db.run("INSERT INTO outbox_words (outbox_words) VALUES ('integrity-check')")


def test_the_size_limit_counts_the_index_and_gets_below(tmp_path: Path) -> None:
    """What is pruned gives its pages back: not everything has to go because of the index."""
    bus = Bus(tmp_path / "agentd.db", clock=ManualClock())
    with bus.transaction():
        for n in range(4_000):
            add(bus, " ".join(f"w{n}x{m}" for m in range(40)))
    while bus.search.index():
        pass
    retention = Retention(bus, RetentionConfig(database_bytes=1_000_000))
    while retention.step(by_age=False) is not None:
        pass
    assert retention.live_bytes() <= 1_000_000
    left = bus.db.run("SELECT count(*), min(id) FROM outbox")[0]
    assert left[0] > 200, "it does not empty the outbox"
    assert found(bus, f"w{left[1] - 1}x7") == [left[1]] and found(bus, "w1x7") == []


def _index_for_ever(path: Path) -> None:
    bus = Bus(path)
    while True:
        bus.search.index()
        add(bus, "word of a process")


def test_a_kill_leaves_the_index_right(tmp_path: Path) -> None:
    """At any instant: no event is lost to the search, none is there twice, two may work at once."""
    path = tmp_path / "agentd.db"
    bus = Bus(path)
    for _ in range(4):
        workers = [multiprocessing.Process(target=_index_for_ever, args=(path,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        before = bus.events.last_id()
        while bus.events.last_id() < before + 40:
            bus.search.index()
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
    last = bus.events.last_id()
    assert found(bus, "word", limit=last) == list(range(last, 0, -1))
    bus.db.run("INSERT INTO outbox_words (outbox_words) VALUES ('integrity-check')")
    assert health.wrongs(path) == []


def test_copies_and_repairs(tmp_path: Path) -> None:
    """A copy is sound and finds what it holds; a repair makes the index anew."""
    path, clock = tmp_path / "agentd.db", ManualClock()
    bus = Bus(path, clock=clock)
    ids = [add(bus, f"word {n}") for n in range(3)]
    assert found(bus, "word") == ids[::-1]
    with health.opened(path) as source:
        copies.copy(source, tmp_path / "copy.db")
    assert health.sound(tmp_path / "copy.db")
    assert found(Bus(tmp_path / "copy.db"), "word") == ids[::-1]
    bus.close()
    repair(path, clock)
    again = Bus(path, clock=clock)
    assert found(again, "word") == ids[::-1]
    assert not any(name.startswith("outbox_words") for name in TABLES)


def test_who_never_searches_pays_nothing(bus: Bus) -> None:
    """Publishing writes nothing to the index, and needs no FTS5: any tool may insert a row."""
    add(bus, "word")
    assert bus.db.run("SELECT count(*) FROM outbox_words_docsize") == [(0,)]
    triggers = bus.db.run("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")
    assert not any("outbox_words" in sql for (sql,) in triggers)


def test_an_older_database_gets_the_index(tmp_path: Path) -> None:
    """Its events are found after the migration, which itself takes no time."""
    path = tmp_path / "agentd.db"
    add(Bus(path), "word of old")
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("DROP TABLE outbox_words; DROP INDEX outbox_cause; DROP INDEX sessions_event")
        for index in ("outbox_results", "outbox_results_of", "dead_letters_of"):
            db.execute(f"DROP INDEX {index}")
        db.pragma("user_version", schema.MIGRATIONS.index(words_migration()))
    assert found(Bus(path), "old") == [1]


def words_migration() -> object:
    return next(one for one in schema.MIGRATIONS if one.__name__ == "_words")


def test_the_command(tmp_path: Path) -> None:
    """Oldest first, as `agentd events`; by producer and by age; a search without a hit says so."""
    home = discover({"AGENTD_HOME": str(tmp_path)})
    with contextlib.closing(Bus(home.database)) as bus:
        bus.accept("one", "v")
        for title in ("First invoice", "Second invoice"):
            add(bus, title, agent="one")
        add(bus, "An \x1b[31minvoice", agent="me")
        assert bus.next(Lane("one", True)) is None
    done = agentd(home.user, "search", "INVOI")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert [line.split("note.added  ")[1] for line in done.stdout.splitlines()][:2] == [
        "First invoice",
        "Second invoice",
    ]
    by_one = agentd(home.user, "search", "invoice", "--agent", "one", "--since", "1h", "--json")
    assert by_one.stdout.count('"excerpt":') == 2
    assert agentd(home.user, "search", "invoice", "--limit", "1").stdout.count("invoice") == 1
    assert agentd(home.user, "search", "-", "(").stdout == "no such events\n"
    nobody = agentd(home.user, "search", "x", "--agent", "on")
    assert nobody.returncode == 1 and "one" in nobody.stderr
