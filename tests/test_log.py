"""Logs: what a line holds, what never gets into one, and that no folder of them grows for ever."""

import json
import logging
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.config.daemon import LogConfig
from agentd.logs import logger as log
from agentd.logs import view
from agentd.paths import Paths, discover
from agentd.testing import ManualClock
from tests.time_zone import local_time


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = discover({"AGENTD_HOME": str(tmp_path)})
    found.create()
    yield found
    log.close()


def config(**keys: Any) -> LogConfig:
    return LogConfig(**keys)


def lines(paths: Paths, name: str = "one") -> list[dict[str, Any]]:
    text = (paths.log(name)).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def size(paths: Paths) -> int:
    return sum(path.stat().st_size for path in paths.logs.rglob("*.jsonl*"))


# --- a line


def test_a_line_has_its_keys_in_order(paths: Paths) -> None:
    """ts in UTC with milliseconds, level, event and agent first: what tools and people rely on."""
    logger = log.configure("one", paths, config(), clock=ManualClock())
    logger.bind(session_id=7).warning("session.ended", duration_ms=1.5)
    assert paths.log("one").read_text() == (
        '{"ts": "2026-01-15T10:30:00.000Z", "level": "warning", "event": "session.ended", '
        '"agent": "one", "session_id": 7, "duration_ms": 1.5}\n'
    )


def test_levels_below_the_threshold_are_not_written(paths: Paths) -> None:
    """And the threshold can change while running, also for loggers made before."""
    logger = log.configure("one", paths, config(level="warning"))
    logger.info("a")
    log.set_level("debug")
    logger.debug("b")
    assert [line["event"] for line in lines(paths)] == ["b"]


def test_an_exception_is_one_value(paths: Paths) -> None:
    """A traceback stays inside its line."""
    logger = log.configure("one", paths, config())
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("work.raised")
    (line,) = lines(paths)
    assert line["level"] == "error"
    assert line["exception"].endswith("ValueError: no\n")


def test_libraries_warnings_come_into_the_same_file(paths: Paths) -> None:
    """What APScheduler complains of must not be lost on a stderr that nobody reads."""
    log.configure("one", paths, config())
    logging.getLogger("apscheduler").warning("missed %s", "job")
    logging.getLogger("apscheduler").info("chatter")
    (line,) = lines(paths)
    assert (line["event"], line["message"]) == ("library.log", "missed job")


@pytest.mark.parametrize(
    "value",
    [
        b"\xff bytes",
        "\udcff from a file name",
        float("nan"),
        {1: {2, 3}},
        object(),
        "line\nbreak\x1b[2J",
        "x" * 1_000_000,
        {str(number): "y" * 3_000 for number in range(1_000)},
    ],
)
def test_any_value_makes_one_legal_line(paths: Paths, value: object) -> None:
    """Whatever an agent logs, a line is one JSON object of bounded size."""
    log.configure("one", paths, config()).info("a.b", value=value)
    (line,) = lines(paths)
    assert line["event"] == "a.b"
    assert size(paths) <= log.LINE_BYTES_MAX + 1
    json.dumps(line, allow_nan=False)


# --- secrets


@pytest.mark.parametrize(
    "key", ["token", "API_KEY", "api-key", "Authorization", "hf_token", "client_secret", "Cookie"]
)
def test_secrets_are_redacted_by_key(paths: Paths, key: str) -> None:
    """At any depth; nothing of them reaches the disk."""
    log.configure("one", paths, config()).info("a.b", **{key: "hunter2"}, d=[{key: ["hunter2"]}])
    assert "hunter2" not in paths.log("one").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "sent Authorization: Bearer hunter2.abc",
        "cloning https://me:hunter2@example.org/x.git",
        "key sk-hunter2hunter2 was refused",
        "hf_hunter2hunter2",
    ],
)
def test_secrets_are_redacted_in_texts(paths: Paths, text: str) -> None:
    """Error messages of libraries carry URLs and headers."""
    logger = log.configure("one", paths, config())
    logger.error("a.b", error=text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("a.c")
    assert "hunter2" not in paths.log("one").read_text()


def test_counts_of_tokens_are_no_secrets(paths: Paths) -> None:
    """Tokens are also what a model counts."""
    log.configure("one", paths, config()).info("call", prompt_tokens=12, tokens=3, max_tokens=5)
    (line,) = lines(paths)
    assert (line["prompt_tokens"], line["tokens"], line["max_tokens"]) == (12, 3, 5)


# --- repeats


def test_repeated_lines_are_counted_instead(paths: Paths) -> None:
    """A loop that logs the same line a million times costs two lines; durations may differ."""
    logger = log.configure("one", paths, config())
    for number in range(1000):
        logger.warning("model.unavailable", url="x", duration_ms=number)
    logger.info("other")
    assert [(line["event"], line.get("count")) for line in lines(paths)] == [
        ("model.unavailable", None),
        ("log.repeated", 999),
        ("other", None),
    ]
    assert lines(paths)[1]["repeated"] == "model.unavailable"


def test_a_line_that_repeats_for_ever_is_counted_now_and_then(paths: Paths) -> None:
    """Silence would look like health."""
    clock = ManualClock()
    logger = log.configure("one", paths, config(), clock=clock)
    for _ in range(200):
        logger.warning("model.unavailable")
        clock.advance(1)
    assert [line.get("count") for line in lines(paths)] == [None, 60, 60, 60]


def test_the_count_is_written_at_the_end(paths: Paths) -> None:
    """A process that stops says what it still counted."""
    logger = log.configure("one", paths, config())
    logger.info("a")
    logger.info("a")
    log.close()
    assert lines(paths)[-1]["count"] == 1


# --- bounds


def test_a_file_is_rotated_and_the_oldest_goes(paths: Paths) -> None:
    """file_bytes and files hold; the newest lines are kept, each of them whole."""
    logger = log.configure("one", paths, config(file_bytes=10_000, files=2))
    for number in range(1000):
        logger.info("a.b", number=number)
    files = sorted(path.name for path in paths.log("one").parent.iterdir())
    assert files == ["one.jsonl", "one.jsonl.1", "one.jsonl.2"]
    assert all(path.stat().st_size <= 10_000 for path in paths.log("one").parent.iterdir())
    numbers = [json.loads(line)["number"] for line in view.read(paths)]
    assert numbers == list(range(numbers[0], 1000))


def test_all_files_together_are_bounded(paths: Paths) -> None:
    """Many agents, one folder: the oldest rotated files go, whoever wrote them."""
    small = config(file_bytes=100_000, files=50, total_bytes=1_000_000)
    for name in ("a", "b", "c", "d"):
        logger = log.configure(name, paths, small)
        for number in range(1_500):
            logger.info("a.b", number=number, text="x" * 300)
        assert size(paths) <= 1_000_000
    assert paths.log("a").exists(), "current files stay while there are rotated ones"
    assert not paths.log("a").with_name("a.jsonl.5").exists()


def test_more_processes_than_the_bound_has_room_for(paths: Paths) -> None:
    """Fifty agents with 5 MB each do not fit 1 MB: each takes a fair share of it."""
    small = config(total_bytes=1_000_000)
    for number in range(50):
        logger = log.configure(f"agent{number}", paths, small)
        for line in range(100):
            logger.info("a.b", line=line, text="x" * 200)
        assert size(paths) <= 1_000_000


def test_who_sees_its_own_folder_only_keeps_to_its_share(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker in its sandbox cannot look at the others' files; all together are bounded still."""

    def kept_from(logs: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("agentd.logs.file.folders", kept_from)
    small = config(file_bytes=1_000_000, files=3, total_bytes=6_400_000)
    for name in ("a", "b", "c"):
        logger = log.configure(name, paths, small)
        for number in range(3_000):
            logger.info("a.b", number=number, text="x" * 200)
    assert 3 * 50_000 < size(paths) <= 3 * 100_000, "a share of 64 each"
    assert paths.log("a").with_name("a.jsonl.3").exists()


def test_what_an_older_version_wrote_is_read_and_goes_first(paths: Paths) -> None:
    """Its files lie beside the folders of today, and nobody rotates them any more."""
    (paths.logs / "a.jsonl.1").write_text('{"ts": "0", "event": "older", "agent": "a"}\n')
    (paths.logs / "a.jsonl").write_text('{"ts": "1", "event": "old", "agent": "a"}\n' * 20_000)
    logger = log.configure("a", paths, config(total_bytes=1_000_000))
    log.set_level("error")
    logger.error("new")
    events = [json.loads(line)["event"] for line in view.read(paths, ["a"])]
    assert events == ["older", *["old"] * 20_000, "new"]
    for number in range(3_000):
        logger.error("b", number=number, text="x" * 100)
    assert not (paths.logs / "a.jsonl").exists() and size(paths) <= 1_000_000
    assert json.loads(next(view.read(paths, ["a"])))["event"] == "new"


def test_a_removed_file_is_written_anew(paths: Paths) -> None:
    """A person may delete logs at any time; logging goes on in a new file."""
    logger = log.configure("one", paths, config())
    logger.info("a")
    paths.log("one").unlink()
    logger.info("b")
    assert [line["event"] for line in lines(paths)] == ["b"]


def test_a_torn_line_does_not_spoil_the_next(paths: Paths) -> None:
    """A process killed while it wrote leaves half a line; the next process starts a new one."""
    paths.log("one").parent.mkdir()
    paths.log("one").write_text('{"ts": "2026')
    log.configure("one", paths, config()).info("b")
    assert json.loads(paths.log("one").read_text().splitlines()[1])["event"] == "b"


def test_a_full_disk_kills_nobody_and_is_counted(paths: Paths) -> None:
    """Lines that cannot be written are dropped; once it works again, a line says how many."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    logger = log.configure("one", paths, config())
    logger.info("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The size limit stands in for a full disk: write() fails, after a part of the line.
        here = paths.log("one").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (here + 20, limits[1]))
        for number in range(5):
            logger.info("lost", number=number)
        assert log.dropped() == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    logger.info("after")
    kept = [view.parse(line) for line in view.read(paths)]
    assert [entry["event"] for entry in kept if entry] == ["before", "after", "log.dropped"]
    assert kept[-1]["count"] == 5


def test_threads_do_not_tear_each_others_lines(paths: Paths) -> None:
    """Tools and loop log from several threads."""
    logger = log.configure("one", paths, config(file_bytes=10_000, files=50))

    def work(thread: int) -> None:
        for number in range(200):
            logger.info("a.b", thread=thread, number=number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in view.read(paths)]) == 800


# --- reading


def test_lines_of_several_processes_come_by_time(paths: Paths) -> None:
    """`agentd logs` shows one story; NAME narrows it, with what the supervisor says of NAME."""
    clock = ManualClock()
    for name, event in [("one", "a"), ("agentd", "b"), ("two", "c"), ("one", "d")]:
        clock.advance(1)
        about = {"agent": "one"} if name == "agentd" else {}
        log.configure(name, paths, config(), clock=clock).info(event, **about)
    assert [json.loads(line)["event"] for line in view.read(paths)] == ["a", "b", "c", "d"]
    assert [json.loads(line)["event"] for line in view.read(paths, ["one"])] == ["a", "b", "d"]
    assert [json.loads(line)["event"] for line in view.read(paths, ["two"])] == ["c"]


def test_following_loses_nothing_across_rotations(paths: Paths) -> None:
    """`agentd logs -f` while a file rotates several times between two looks: each line once."""
    more = [True]
    logger = log.configure("one", paths, config(file_bytes=10_000, files=50))
    logger.info("a.b", number=0)
    follower = view.read(paths, wait=lambda: more[0])
    seen = [json.loads(next(follower))["number"]]
    for number in range(1, 1001):
        logger.info("a.b", number=number)
    while seen[-1] < 1000:
        seen.append(json.loads(next(follower))["number"])
    more[0] = False
    assert seen == list(range(1001))
    assert list(follower) == []


def test_following_waits_for_the_end_of_a_line(paths: Paths) -> None:
    """Half a line is not shown; a new process's file is noticed."""
    path = paths.log("one")
    path.parent.mkdir()
    path.write_text('{"event": "a"}\n{"event"')
    follower = view.read(paths, wait=lambda: True)
    assert next(follower) == '{"event": "a"}'
    with path.open("a") as file:
        file.write(': "b"}\n')
    paths.log("two").parent.mkdir()
    paths.log("two").write_text('{"event": "c"}\n')
    assert sorted((next(follower), next(follower))) == ['{"event": "b"}', '{"event": "c"}']


def test_rendering_is_aligned_and_harmless() -> None:
    """Local time, then columns; values by others cannot move the cursor or fake a line."""
    entry = {
        "ts": "2026-01-15T10:30:00.000Z",
        "level": "error",
        "event": "tool.failed",
        "agent": "one",
        "path": "a b\x1b[2J\nfake",
        "n": 1.5,
        "ok": "plain",
    }
    with local_time("UTC"):
        text = view.render(json.dumps(entry))
    assert text == (
        "2026-01-15 10:30:00.000 error   one            tool.failed          "
        'path="a b\\u001b[2J\\nfake" n=1.5 ok=plain'
    )
    assert view.render("torn \x1b[2J") == "torn \\x1b[2J"


def test_rendering_shows_a_traceback_below_its_line() -> None:
    """People read tracebacks over several lines."""
    text = view.render('{"event": "e", "exception": "Traceback\\n  File\\nValueError: no\\n"}')
    assert text.splitlines()[1:] == ["    Traceback", "      File", "    ValueError: no"]
