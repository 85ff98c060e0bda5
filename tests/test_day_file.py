"""A file per day: each entry once, whole, whatever is killed; and what a person wrote stays."""

import itertools
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agentd.config.delivery import DeliverConfig
from agentd.deliver import day_file
from agentd.deliver.day_file import DayFile
from agentd.deliver.news import Item, Kind
from agentd.deliver.silence import Silence
from agentd.deliver.ways import WayFailed
from tests.messengers import publish, result
from tests.test_courier import Desk

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def item(number: int, title: str = "", text: str = "", at: datetime = NOON) -> Item:
    todo = f"agentd results {number}"
    return Item(str(number), number, Kind.RESULT, at, "feed", title or f"no. {number}", text, todo)


def read(folder: Path, name: str = "2026-01-15") -> str:
    return (folder / f"{name}.md").read_text()


def test_an_entry_is_a_heading_and_its_text(tmp_path: Path) -> None:
    DayFile(tmp_path, UTC).append([item(1, "3 articles", "| a |\n|---|"), item(2)])
    assert read(tmp_path) == (
        "# 2026-01-15\n\n<!-- agentd 1 -->\n## 12:00 feed: 3 articles\n\n| a |\n|---|\n"
        "\n<!-- agentd 2 -->\n## 12:00 feed: no. 2\n"
    )


def test_what_a_person_wrote_stays_and_an_entry_is_there_once(tmp_path: Path) -> None:
    """Above, below and inside of entries; a file's mode stays as well."""
    way, file = DayFile(tmp_path, UTC), tmp_path / "2026-01-15.md"
    way.append([item(1)])
    file.write_text(f"mine above\n{file.read_text()}mine below, without an end")
    file.chmod(0o644)
    way.append([item(1), item(2)])
    text = read(tmp_path)
    assert text.startswith("mine above\n# 2026-01-15\n")
    assert "mine below, without an end\n\n<!-- agentd 2 -->\n" in text
    assert text.count("<!-- agentd 1 -->") == text.count("<!-- agentd 2 -->") == 1
    assert file.stat().st_mode & 0o777 == 0o644
    before = file.stat()
    way.append([item(2)])
    assert file.stat().st_mtime_ns == before.st_mtime_ns, "nothing new writes nothing"


def test_each_entry_is_in_the_file_of_its_own_day(tmp_path: Path) -> None:
    """By this machine's clock, also where it is written days later."""
    late = datetime(2026, 1, 15, 23, 30, tzinfo=UTC)
    DayFile(tmp_path, ZoneInfo("Europe/Berlin")).append([item(1), item(2, at=late)])
    assert "agentd 1 " in read(tmp_path) and "agentd 2 " not in read(tmp_path)
    assert "## 00:30 feed: no. 2" in read(tmp_path, "2026-01-16")


def test_a_day_that_has_too_much_gets_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an entry of the first one is not written again into the second."""
    monkeypatch.setattr(day_file, "FILE_BYTES", 1000)
    way = DayFile(tmp_path, UTC)
    way.append([item(1, text="x" * 1000)])
    way.append([item(1), item(2)])
    assert "agentd 2 " not in read(tmp_path)
    assert "agentd 2 " in read(tmp_path, "2026-01-15-2")
    assert "agentd 1 " not in read(tmp_path, "2026-01-15-2")


@pytest.mark.parametrize(
    "text",
    [
        "<!-- agentd 2 -->",
        "<!--",
        "<script>",
        "# Top\n## 12:00 other: forged",
        "A heading\n===",
        "```\nno end",
        "~~~~\n```\nno end",
        "<details>",
    ],
)
def test_a_text_of_others_hides_and_forges_no_entry(tmp_path: Path, text: str) -> None:
    """No mark, no heading of an entry, no comment, tag or block that swallows what comes after."""
    way = DayFile(tmp_path, UTC)
    way.append([item(1, text=text)])
    way.append([item(2, "the next")])
    lines = read(tmp_path).split("\n")
    marks = [line for line in lines if line.startswith("<!-- agentd")]
    assert marks == ["<!-- agentd 1 -->", "<!-- agentd 2 -->"]
    assert [line for line in lines if line.startswith("## ")] == [
        "## 12:00 feed: no. 1",
        "## 12:00 feed: the next",
    ]
    assert sum(line.startswith("```") for line in lines) in (0, 2) or text.startswith("~~~~")
    assert not any(line.startswith(("<d", "<s")) for line in lines)
    assert not any(b == "===" and a.strip() for a, b in itertools.pairwise(lines))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("```a`b", "```a`b"),  # opens nothing: to close it would open a block
        ("```\n```py\nx", "```\n```py\nx\n```"),  # is still open
        ("- a\n  ```\n  x", "- a\n```\n  x\n```"),  # the item's end would end the block
        ("```py\nx\n  ``` \ny", "```py\nx\n``` \ny"),
        ("~~~ `\nx", "~~~ `\nx\n~~~"),
    ],
)
def test_a_block_of_code_ends_with_its_entry(tmp_path: Path, text: str, kept: str) -> None:
    """By the rules of CommonMark for what opens one and what closes it: no entry is swallowed."""
    DayFile(tmp_path, UTC).append([item(1, text=text)])
    assert read(tmp_path).partition("no. 1\n\n")[2] == kept + "\n"


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """Nobody's results are lost for that: the next try has them."""
    with pytest.raises(WayFailed) as failed:
        DayFile(tmp_path / "gone", UTC).append([item(1)])
    assert str(tmp_path / "gone") in failed.value.what and failed.value.hint


def test_a_file_gets_all_in_quiet_hours_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, DayFile(tmp_path, UTC))
    desk.silence = Silence(DeliverConfig(quiet="00:00-23:59").silence, 1, UTC)
    desk.again("nobody")
    desk.publish(result("one"), result("two"))
    desk.rounds()
    assert read(tmp_path).count("## ") == 2
    desk.bus.close()


KILLED = """
import os, sys
from pathlib import Path
from agentd.bus import Bus
from agentd.deliver import courier, day_file, position
from agentd.deliver.day_file import DayFile
from agentd.deliver.silence import Silence
from agentd.replay.loaded import Quiet
from agentd.clock import SystemClock
folder, point = Path(sys.argv[1]), sys.argv[2]
write_whole, write = day_file.write_whole, position.Positions.write
calls = [0]
def whole(*args, **keys):
    if point == "before the file":
        os._exit(9)
    write_whole(*args, **keys)
    if point == "after the file":
        os._exit(9)
def noted(self, *args):
    calls[0] += 1
    with self.bus.transaction():
        write(self, *args)
        if point == "in the record" and calls[0] == 2:
            os._exit(9)
    if point == "after the record" and calls[0] == 2:
        os._exit(9)
day_file.write_whole, position.Positions.write = whole, noted
bus = Bus(folder / "agentd.db")
silence, log, clock = Silence(None, 10), Quiet(), SystemClock()
one = courier.Courier("file", DayFile(folder), bus, silence, (), 5.0, log=log, clock=clock)
if point != "open":
    while one.round() == 0:
        pass
"""


@pytest.mark.parametrize(
    "point", ["before the file", "after the file", "in the record", "after the record"]
)
def test_a_kill_at_any_point_leaves_each_entry_once(tmp_path: Path, point: str) -> None:
    def run(point: str) -> int:
        return subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), point]).returncode

    assert run("open") == 0
    publish(tmp_path / "agentd.db", result("one", "text"), result("two"))
    assert run(point) == 9
    assert run("never") == 0
    (file,) = tmp_path.glob("*.md")
    text = file.read_text()
    assert text.count("mail_triage: one") == text.count("mail_triage: two") == 1
    assert text.index("mail_triage: one") < text.index("mail_triage: two")
