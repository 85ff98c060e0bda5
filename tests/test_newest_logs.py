"""The newest lines of the logs, and what they tell of the model's use: read from the end."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from agentd.clock import iso
from agentd.logs.newest import ReadBudget, all_back, entries_back, newest
from agentd.logs.view import Place, read
from agentd.paths import Paths, discover
from agentd.testing import ManualClock
from agentd.views.log_lines import log_lines
from agentd.views.model_use import model_use


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = discover({"AGENTD_HOME": str(tmp_path)})
    found.create()
    yield found


def write(path: Path, *entries: dict[str, Any] | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    with path.open("a") as file:
        file.write("".join(f"{text}\n" for text in texts))


def line(second: int, agent: str = "one", **more: Any) -> dict[str, Any]:
    ts = f"2026-01-15T10:{second // 60:02}:{second % 60:02}.000Z"
    return {"ts": ts, "level": "info", "event": "a.b", "agent": agent, "n": second, **more}


def seconds(lines: list[str]) -> list[int]:
    return [json.loads(text)["n"] for text in lines]


def test_the_newest_lines_of_all_logs_come_first(paths: Paths) -> None:
    """Merged by time over processes and rotated files."""
    write(paths.log("one").with_name("one.jsonl.2"), line(1))
    write(paths.log("one").with_name("one.jsonl.1"), line(3), line(4))
    write(paths.log("one"), line(7))
    write(paths.log("two"), line(2, "two"), line(6, "two"))
    write(paths.log("agentd"), line(5, "two"), line(8, "agentd"))
    assert seconds(newest(paths).lines) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert newest(paths).read_all
    some = newest(paths, limit=3)
    assert (seconds(some.lines), some.read_all) == ([8, 7, 6], False)
    assert seconds(newest(paths, ["two"]).lines) == [6, 5, 2]
    chosen = newest(paths, wanted=lambda entry: entry.get("n", 0) % 2 == 1, limit=2)
    assert seconds(chosen.lines) == [7, 5]


def test_older_lines_follow_without_a_gap(paths: Paths) -> None:
    """Also where many lines have the same time as the last one that was given."""
    write(paths.log("one"), line(1), *[line(2, more=n) for n in range(5)], line(3))
    first = newest(paths, limit=2)
    assert seconds(first.lines) == [3, 2, 2, 2, 2, 2]
    older = newest(paths, limit=2, before=json.loads(first.lines[-1])["ts"])
    assert seconds(older.lines) == [1]


def test_lines_from_before_the_clock_was_set_back_are_not_lost(paths: Paths) -> None:
    """Nor given twice: they follow those after it, and stay within bounds."""
    ahead = [line(3000 + n) for n in range(15)]
    write(paths.log("one"), *ahead, *[line(n) for n in range(9)])
    found: list[int] = []
    before = ""
    while True:
        some = newest(paths, limit=4, before=before)
        found += seconds(some.lines)
        if some.read_all:
            break
        assert len(some.lines) <= 20
        before = some.oldest
    assert found == [8, 7, 6, 5, 4, 3, 2, 1, 0, *range(3014, 2999, -1)]


def test_a_huge_log_is_read_from_its_end(paths: Paths) -> None:
    """A look costs the same at a megabyte and at a gigabyte; that more was there is told."""
    with paths_log(paths, "one").open("wb") as file:
        file.truncate(8 << 30)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(line(9)).encode() + b"\n")
    found = newest(paths, bytes_max=1 << 20)
    assert (seconds(found.lines), found.read_all) == ([9], False)


def paths_log(paths: Paths, name: str) -> Path:
    paths.log(name).parent.mkdir(parents=True)
    return paths.log(name)


def test_the_last_lines_of_a_huge_log_are_printed_at_once(
    paths: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`agentd logs -n` read all of it, from its beginning."""
    monkeypatch.setenv("AGENTD_HOME", str(paths.user))
    with paths_log(paths, "one").open("wb") as file:
        file.truncate(1 << 40)  # sparse: an hour's reading
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(json.dumps(line(n)).encode() + b"\n" for n in (1, 2, 9)))
    assert main(["logs", "-n", "2", "--json"]) == 0
    assert seconds(capsys.readouterr().out.splitlines()) == [2, 9]
    since = ["--since", "2026-01-15T10:00:02+00:00", "--until", "2026-01-15T10:00:05+00:00"]
    assert main(["logs", *since, "--json"]) == 0
    assert seconds(capsys.readouterr().out.splitlines()) == [2]


def test_who_follows_goes_on_where_the_last_lines_end(paths: Paths) -> None:
    """Each line once: also one that was being written, and where the log is rotated meanwhile."""
    log = paths.log("one")
    write(log, line(1), line(2))
    os.mkfifo(paths.log("one").with_name("pipe.jsonl"))
    half = json.dumps(line(3))
    with log.open("a") as file:
        file.write(half[:20])
    ends: dict[Path, Place] = {}
    found = [entry["n"] for _, _, entry in all_back(paths, ReadBudget(1 << 20), ends=ends)]
    assert found == [2, 1]
    with log.open("a") as file:
        file.write(half[20:] + "\n")
    log.rename(log.with_name("one.jsonl.1"))
    write(log, line(4))
    write(paths.log("two"), line(5, "two"))
    assert seconds([*read(paths, begin=ends)]) == [3, 4, 5]


def test_a_log_that_is_rotated_meanwhile_is_given_once(paths: Paths) -> None:
    """Neither twice nor with a hole: the files have other names by then."""
    log = paths.log("one")
    older, newer = log.with_name("one.jsonl.1"), log.with_name("one.jsonl.2")
    write(older, line(1), line(2))
    write(log, line(3), line(4))
    lines = entries_back(log, ReadBudget(1 << 20))
    found = [next(lines)]
    older.rename(newer)
    log.rename(older)
    write(log, line(5))
    found += lines
    assert [entry["n"] for _, _, entry in found] == [4, 3, 2, 1]


def test_a_line_longer_than_a_block_is_whole(paths: Paths) -> None:
    """A traceback may be long."""
    write(paths.log("one"), line(1), line(2, text="x" * 200_000), line(3))
    assert seconds(newest(paths).lines) == [3, 2, 1]


def test_what_is_no_line_of_ours_does_no_harm(paths: Paths) -> None:
    """Torn by a crash, from a clock that was ahead, or a pipe that an agent's code put there."""
    odd = ['{"ts": "2026', "[]", '{"ts": 7, "n": 0}', json.dumps(line(30, n=-1) | {"ts": "zzz"})]
    write(paths.log("one"), line(1), line(50), line(20), *odd, line(21))
    os.mkfifo(paths.log("one").with_name("one.jsonl.1"))
    elsewhere = paths.logs.parent / "elsewhere"
    write(elsewhere, line(2))
    paths.log("one").with_name("one.jsonl.2").symlink_to(elsewhere)
    found = newest(paths)
    assert seconds(found.lines) == [21, -1, 0, 20, 50, 1] and found.read_all
    assert seconds(newest(paths, limit=5).lines)[-1] == 50


# --- the model


def finished(clock: ManualClock, ago_s: float, **more: Any) -> dict[str, Any]:
    given = {"queue_ms": 100.0, "ttft_ms": 600.0, "duration_ms": 1600.0, "finish_reason": "stop"}
    tokens = {"prompt_tokens": 100, "cached_tokens": 75, "completion_tokens": 20}
    ts = iso(clock.now() - timedelta(seconds=ago_s))
    return {"ts": ts, "event": "request.finished", "agent": "one", **given, **tokens, **more}


def test_the_models_use_is_told_by_minutes(paths: Paths) -> None:
    """From what the server logged of each request, whatever agent it was for."""
    clock = ManualClock()
    lines = [finished(clock, s) for s in (7200, 600, 130, 129.5, 128)]
    write(paths.log("model"), *lines, finished(clock, 5, ttft_ms=None, completion_tokens=0))
    told = model_use(paths, "hour", clock=clock)
    assert len(told["samples"]) == 60
    used = {n: sample for n, sample in enumerate(told["samples"]) if sample["requests"]}
    assert [sample["requests"] for sample in used.values()] == [1, 3, 1]
    three = list(used.values())[1]
    assert three["queue_s"] == {"middle": 0.1, "high": 0.1}
    assert three["first_token_s"] == {"middle": 0.6, "high": 0.6}
    assert (three["tokens_per_s"], three["cached"], three["batch"]) == (20.0, 0.75, 2)
    idle = told["samples"][0]
    assert (idle["requests"], idle["queue_s"], idle["cached"], idle["batch"]) == (0, None, None, 0)
    assert (told["total"]["requests"], told["completion_tokens"]) == (5, 80)
    assert told["samples"][-1]["requests"] == 1, "the last sample is the one that is running"
    day = model_use(paths, "day", clock=clock)
    assert (len(day["samples"]), day["total"]["requests"]) == (96, 6)


def test_a_long_answer_counts_in_each_minute_that_it_takes(paths: Paths) -> None:
    """A batch is what runs, not what ended."""
    clock = ManualClock()
    write(paths.log("model"), finished(clock, 60, duration_ms=600_000.0))
    batches = [s["batch"] for s in model_use(paths, "hour", clock=clock)["samples"]]
    assert sum(batches) in (10, 11) and max(batches) == 1


def test_a_log_that_is_too_long_says_since_when_it_was_read(paths: Paths) -> None:
    """A chart must not show no requests where it did not look; lines of others are passed over."""
    clock = ManualClock()
    ago = [3000 - n for n in range(2000)]
    write(paths.log("model"), *(finished(clock, s) for s in ago), finished(clock, 1, queue_ms="x"))
    told = model_use(paths, "hour", clock=clock, bytes_max=70_000)
    assert told["since"] > told["samples"][0]["at"] and 0 < told["total"]["requests"] < 2000
    told = model_use(paths, "hour", clock=clock)
    assert (told["since"], told["total"]["requests"]) == (told["samples"][0]["at"], 2000)
    assert model_use(paths, "day", clock=clock)["total"]["requests"] == 2000


def test_without_a_log_there_are_empty_samples(paths: Paths) -> None:
    """An external model leaves none."""
    told = model_use(paths)
    assert (told["total"]["requests"], len(told["samples"])) == (0, 60)


# --- what the page shows


def test_lines_are_chosen_by_level_and_session(paths: Paths) -> None:
    """With what they say in words, a traceback apart, and their session to go to."""
    trace: dict[str, Any] = {"exception": "Traceback\n  boom", "level": "error", "session_id": 7}
    write(paths.log("one"), line(1), line(2, **trace), line(3, level="warning", why="a b"))
    told = log_lines(paths, level="warning")
    assert [(one["level"], one["keys"]) for one in told["lines"]] == [
        ("warning", 'n=3 why="a b"'),
        ("error", "n=2"),
    ]
    assert told["lines"][1]["exception"] == "Traceback\n  boom"
    assert [one["session_id"] for one in log_lines(paths, session=7)["lines"]] == [7]
    assert log_lines(paths, agent="two")["lines"] == []
    assert (told["older"], told["read_all"], told["names"]) == (None, True, ["one"])
    some = log_lines(paths, limit=1)
    older = log_lines(paths, before=some["older"])["lines"]
    assert older[0]["keys"] == "n=2"
