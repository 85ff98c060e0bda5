"""ReadLog: what counts as an error, what makes one code, and that no line is lost or told twice."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.tools import log_file
from agentd.tools.base import TEXT_CHARACTERS
from agentd.tools.log_errors import OTHERS, code_of, error_in, grouped
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox

LINE = "2026-11-29 10:00:{n:02} ERROR db: connection {n} to 10.0.0.5:5432 refused\n"


class Reader:
    """A log, and an agent that reads it and remembers what a session's end would keep."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "app.log"
        self.memory: dict[str, Any] = {}
        self.read = (str(folder),)

    def add(self, *numbers: int) -> None:
        with self.log.open("a") as file:
            file.writelines(LINE.format(n=number) for number in numbers)

    def new(self, *, kept: bool = True) -> dict[str, Any]:
        """Return what is new; `kept`: the session comes to its end."""
        tools = Toolbox(Permissions(read=self.read))
        tools.session = SessionView(memory=self.memory)
        result = tools.call("ReadLog", {"path": str(self.log)})
        assert not result.trusted
        if kept:
            self.memory |= json.loads(json.dumps(result.remember))
        return dict(result.value)

    def numbers(self) -> list[int]:
        """Return which lines are new, by their count and the last one's example."""
        errors = self.new()["errors"]
        if not errors:
            return []
        (error,) = errors
        last = int(error["example"].split()[3])
        return list(range(last - error["count"] + 1, last + 1))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    reader.add(1, 2)
    first = reader.new()
    assert first["errors"] == [] and first["note"] == log_file.FIRST
    yield reader


def test_only_what_is_new_and_all_of_it(reader: Reader) -> None:
    """A cut session sees it again; a line of which the end is not written yet comes later."""
    assert reader.numbers() == []
    reader.add(3, 4, 5)
    (error,) = reader.new(kept=False)["errors"]
    assert error == {
        "code": "ERROR db: connection N to N refused",
        "count": 3,
        "first": "2026-11-29 10:00:03",
        "last": "2026-11-29 10:00:05",
        "example": "ERROR db: connection 5 to 10.0.0.5:5432 refused",
    }
    assert reader.numbers() == [3, 4, 5]
    half, rest = LINE.format(n=6)[:30], LINE.format(n=6)[30:]
    with reader.log.open("a") as file:
        file.write(half)
        file.flush()
        assert reader.numbers() == []
        file.write(rest)
    assert reader.numbers() == [6]


@pytest.mark.parametrize("way", ["rename", "copy and cut"])
def test_a_rotated_log_is_read_to_its_end(reader: Reader, way: str) -> None:
    """The old file's last lines and the new one's first come once, whatever way it was rotated."""
    if way == "rename":
        shutil.copy(reader.log, reader.log.with_name("app.log.0"))  # begins alike
    reader.add(3)
    old = reader.log.with_name("app.log.1")
    if way == "rename":
        reader.log.rename(old)
    else:
        shutil.copy(reader.log, old)
        reader.log.write_text("")
    reader.log.touch()
    reader.log.with_name("app.log.2.gz").write_bytes(b"\x1f\x8b")
    reader.log.with_name("app.log.d").mkdir()
    assert reader.numbers() == [3]
    reader.add(4)
    assert reader.numbers() == [4] and reader.numbers() == []


def test_a_log_that_was_rotated_twice_is_read_whole(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came and went between two sessions lies between the old file and the new one."""
    older, old = (reader.log.with_name(f"app.log-2026112{n}") for n in (7, 8))
    other = reader.log.with_name("app.log.other")
    reader.add(3)
    reader.log.rename(older)
    reader.add(4, 5)
    reader.log.rename(old)
    reader.add(6)
    shutil.copy(reader.log, other)
    monkeypatch.setattr(log_file, "READ_BYTES", 3 * len(LINE.format(n=1)))
    assert (reader.numbers(), reader.numbers(), reader.numbers()) == ([3, 4, 5], [6], [])


def test_a_log_that_was_replaced_says_so(reader: Reader) -> None:
    """Of one that was cut, without its old end anywhere, all is new."""
    reader.log.write_text("a new beginning\n" + LINE.format(n=9))
    found = reader.new()
    assert found["note"] == log_file.LOST and found["errors"][0]["count"] == 1
    assert "note" not in reader.new()


def test_a_copy_in_its_place_is_the_same_log(reader: Reader) -> None:
    """As an editor or a backup leaves it: not all of it is new."""
    reader.add(3)
    copied = reader.log.with_name("copied")
    shutil.copy(reader.log, copied)
    copied.replace(reader.log)
    assert reader.numbers() == [3]


def test_a_log_listed_by_itself_is_read(reader: Reader) -> None:
    """Its folder is not listed then: what was rotated away is not looked for."""
    reader.read = (str(reader.log),)
    reader.add(3)
    assert reader.numbers() == [3]


def test_a_burst_is_read_in_parts(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room comes the next time, in the old file too, and line by line."""
    monkeypatch.setattr(log_file, "READ_BYTES", 200)
    reader.add(*range(3, 20))
    reader.log.rename(reader.log.with_name("app.log.1"))
    reader.add(*range(20, 30))
    seen = [number for _ in range(20) for number in reader.numbers()]
    assert seen == list(range(3, 30))


def test_a_line_without_end_stops_nothing(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is longer than what is read at a time is passed over."""
    monkeypatch.setattr(log_file, "READ_BYTES", 200)
    with reader.log.open("a") as file:
        file.write("x" * 1_000 + "\n")
    reader.add(3)
    assert [number for _ in range(8) for number in reader.numbers()] == [3]


def test_a_result_is_bounded(reader: Reader) -> None:
    """The most frequent codes come, the others are counted."""
    with reader.log.open("a") as file:
        for number in range(300):
            word = "".join(chr(ord("g") + int(digit)) for digit in str(number))
            file.write(f"ERROR {word} {'long ' * 100}\n")
        file.write(f"{'ERROR again and again' * 1}\n" * 3)
    found = reader.new()
    assert found["errors"][0] | {"first": "", "last": ""} == {
        "code": "ERROR again and again", "count": 3, "first": "", "last": "",
        "example": "ERROR again and again",
    }  # fmt: skip
    assert len(found["errors"]) + found["more"] == 301
    assert len(json.dumps(found["errors"])) < 2 * TEXT_CHARACTERS


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-29T10:00:00Z error: disk full",
        "Nov 29 10:00:03 box kernel: EXT4-fs error (device sda1)",
        "2026/11/29 10:00:06 [crit] 31#31: cannot open log",
        '{"time":"2026-11-29T10:00:08Z","level":"error","msg":"upload failed"}',
        'ts=2026-11-29T10:00:10Z level=error msg="cannot pull"',
        "\x1b[31mFATAL\x1b[0m no config",
        "Nov 29 10:00:04 box sshd[4211]: Failed password for root",
        "ValueError: could not convert",
        "panic: runtime error: index out of range",
    ],
)
def test_these_lines_tell_of_an_error(line: str) -> None:
    """By their level, or by their words where they have none."""
    found = error_in(line)
    assert found is not None and found[1].isprintable() and "10:00" not in found[1]
    assert ("10:00" in line) == bool(found[0])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026-11-29 10:00:01 INFO handled the error page",
        "2026-11-29 10:00:02 WARN slow query, an error soon",
        "done: 0 errors, error=0",
        "Traceback (most recent call last):",
        '  File "error.py", line 3',
        '{"level":"info","msg":"no error"}',
        "the mirror is clean",
    ],
)
def test_these_lines_do_not(line: str) -> None:
    """A lower level wins over words; of a stack the last line counts alone."""
    assert error_in(line) is None


def test_what_changes_is_no_part_of_a_code() -> None:
    """Numbers, hexadecimal digits, paths, addresses and what stands in quotes."""
    one = 'error 12 in /srv/a/b.db at 0x7ffe: "Ada" https://x.org/1 3f2a9c1d-11ab, 10.0.0.1:80'
    two = 'error 7 in /tmp/c at 0x1: "Bo" http://y.org 99ffab12-0000, 192.168.1.2:8080'
    assert code_of(one) == code_of(two) == 'error N in PATH at N: "..." URL N, N'
    assert code_of("face the error") == "face the error"


def test_errors_of_more_codes_than_are_told_apart_are_counted() -> None:
    """Together, so that none is lost; those of a known code go on to it."""
    names = [f"ERROR {''.join(chr(97 + int(d)) for d in str(n))}" for n in range(2_010)]
    groups = grouped([*names, names[0], names[-1]])
    assert sum(group["count"] for group in groups) == 2_012
    assert [(group["code"], group["count"]) for group in groups[:2]] == [
        (OTHERS, 11),
        (code_of(names[0]), 2),
    ]


def test_no_log_is_asked_for_beyond_the_list(reader: Reader, tmp_path: Path) -> None:
    """A folder, a link out of the list and a missing file are one clear error."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside.log"
    outside.write_text("secret\n")
    (tmp_path / "link.log").symlink_to(outside)
    tools = Toolbox(Permissions(read=(str(tmp_path),)))
    for path, kind, why in (
        (str(outside), PermissionRefused, "outside of what may be touched"),
        (str(tmp_path / "link.log"), PermissionRefused, "outside of what may be touched"),
        (str(tmp_path), ToolError, "is a folder"),
        (str(tmp_path / "none.log"), ToolError, "none.log"),
    ):
        with pytest.raises(kind, match=why):
            tools.call("ReadLog", {"path": path})


def test_any_bytes_are_a_log(reader: Reader) -> None:
    """Whatever is written there, a result comes of it, on printable lines."""
    draw = random.Random(3)
    for _ in range(30):
        with reader.log.open("ab") as file:
            file.write(draw.randbytes(2_000) + b'\nERROR {"a": "' + b"[" * 500 + b"\n{" * 50)
        for error in reader.new()["errors"]:
            assert error["code"].isprintable() and error["example"].isprintable()
    assert not grouped([])
