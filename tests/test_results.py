"""`agentd results`: what agents came to, in words; and [deliver] as it is written."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from agentd.bus import Bus
from agentd.cli import main
from agentd.clock import with_local_times
from agentd.config.daemon import load_daemon
from agentd.deliver.news import news
from agentd.deliver.position import Position
from agentd.errors import ConfigError
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.ui.markdown_text import markdown
from tests.messengers import publish, result
from tests.time_zone import local_time


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    found = discover()
    found.create()
    Bus(found.database).close()
    return found


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["results", *words]) == 0
    return capsys.readouterr().out


def test_results_are_told_in_words(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Time, agent, title, the start of the text; other events are not among them."""
    publish(paths.database, result("3 new mails", "a\nb\nc\nd"), NewEvent("mail.read", {"n": 1}))
    lines = printed(capsys).split("\n")
    assert lines[0].startswith("    1  ") and lines[0].endswith("mail_triage: 3 new mails")
    assert lines[1:4] == ["       a", "       b", "       c"]
    assert lines[4:] == ["       ... `agentd results 1` shows all", ""]
    assert printed(capsys, "1").split("\n")[4] == "       d"


def test_moments_in_columns_are_in_local_time(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people, on each way; programs get what was written, and a quoted line stays as it is."""
    table = "| result | at |\n| --- | --- |\n| 3 mails | 2026-11-29T22:23:30+00:00 |"
    text = f"{table}\n\n- seen: 2026-01-01T12:00:00.000Z\n\nat 2026-01-01T12:00:00Z it failed"
    publish(paths.database, result("a day", text))
    with local_time("Asia/Tokyo"):
        shown = printed(capsys, "1")
        for found in (shown, markdown(text), with_local_times(text)):
            assert "2026-11-30 07:23" in found and "seen: 2026-01-01 21:00" in found
            assert "at 2026-01-01T12:00:00Z it failed" in found and "+00:00" not in found
        assert json.loads(printed(capsys, "--json"))["text"] == text
        bus = Bus(paths.database)
        (item,) = news(bus, Position(0, 0), (1, 0), 10).items
        bus.close()
        assert "2026-11-30 07:23" in item.text


def test_results_of_one_agent_and_of_a_time(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(paths.database, result("old"), ago=timedelta(days=3))
    publish(paths.database, result("other"), agent="feed")
    publish(paths.database, result("new"))
    assert [w in printed(capsys, "mail_triage") for w in ("old", "other", "new")] == [1, 0, 1]
    assert [w in printed(capsys, "--since", "1d") for w in ("old", "other", "new")] == [0, 1, 1]
    assert [w in printed(capsys, "--limit", "1") for w in ("old", "other", "new")] == [0, 0, 1]
    assert main(["results", "nobody"]) == 1
    assert "no agent is called 'nobody'" in capsys.readouterr().err


def test_results_as_json(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    publish(paths.database, result("one", "text"))
    found = json.loads(printed(capsys, "--json"))
    assert {key: found[key] for key in ("id", "agent", "event_type", "title", "text")} == {
        "id": 1,
        "agent": "mail_triage",
        "event_type": "mail.triaged",
        "title": "one",
        "text": "text",
    }
    assert found["payload"] == {"title": "one", "text": "text"}


def test_what_others_wrote_drives_no_terminal(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in a list nor in a whole one; a line break in a title forges no line."""
    hostile = "\x1b[2Jred\u202eder\n    9  12:00:00  bank: pay \x9b31m"
    publish(paths.database, NewEvent("a.b", {"title": hostile, "text": f"x\r{hostile}\x00"}))
    for words in ([], ["1"]):
        out = printed(capsys, *words)
        assert all(line.isprintable() for line in out.split("\n"))
        assert not any(line.startswith("    9  ") for line in out.split("\n"))


def test_a_terminal_shows_no_marks_before_characters(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are Markdown's, for a page: "[ ]" is a box and no link."""
    publish(paths.database, NewEvent("a.b", {"title": "a", "text": "* \\[ \\] pay \\*now\\*"}))
    for words in ([], ["1"]):
        assert "* [ ] pay *now*\n" in printed(capsys, *words)


def test_no_results_say_what_to_do(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`agentd new` makes one" in printed(capsys)
    bus = Bus(paths.database)
    bus.accept("hello", "v")
    bus.close()
    assert "`agentd trigger NAME`" in printed(capsys)
    assert "no such results" in printed(capsys, "hello")


@pytest.mark.parametrize(
    ("what", "told"),
    [("7", "there is no such event"), ("1", "this is no result"), ("9" * 30, "no such event")],
)
def test_an_id_that_is_no_results(
    paths: Paths, capsys: pytest.CaptureFixture[str], what: str, told: str
) -> None:
    publish(paths.database, NewEvent("a.b"))
    assert main(["results", what]) == 2
    assert told in capsys.readouterr().err


def test_following_goes_on_with_new_ones(
    paths: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, also those that stood there before it began."""
    publish(paths.database, result("before"))
    looked = []

    def look(_: float) -> None:
        looked.append(1)
        if len(looked) == 3:
            raise KeyboardInterrupt
        publish(paths.database, NewEvent("a.b"), result(f"no. {len(looked)}"))

    monkeypatch.setattr("agentd.commands.results.pause", look)
    assert main(["results", "-f"]) == 130
    out = capsys.readouterr().out
    assert [line.split(": ")[1] for line in out.splitlines()] == ["before", "no. 1", "no. 2"]


# --- [deliver] as it is written

WRONG = [
    ("quiet = '22-7'", "write it as"),
    ("quiet = '22:00-22:00'", "write it as"),
    ("most_per_day = 0", "deliver.most_per_day"),
    ("[deliver.file]\nfolder = 'here'", "not an absolute path"),
    ("[deliver.ntfy]\nurl = 'https://ntfy.sh'", "end it with your topic"),
    ("[deliver.ntfy]\nurl = 'https://ntfy.sh/a b'", "end it with your topic"),
    ("[deliver.ntfy]\nurl = 'https://me:pw@ntfy.sh/a'", "without user, password"),
    ("[deliver.ntfy]\nurl = 'ftp://ntfy.sh/a'", "write it as"),
    ("[deliver.ntfy]\nurl = 'https://ntfy.sh/a'\ntoken = 'tk_1'", "no tokens in this file"),
    ("[deliver.telegram]\ntoken = 'secret:t'\nchat_ids = []", "chat_ids"),
    ("[deliver.telegram]\ntoken = 'secret:t'\nchat_ids = [1, 1]", "twice"),
    ("[deliver.telegram]\ntoken = '12:ab'\nchat_ids = [1]", "no tokens in this file"),
    ("[deliver.telegram]\nchat_ids = [1]", "token"),
    ("[deliver.mail]\nto = 'me'", "unknown key"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_wrong_table_is_one_clear_error(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text(text if text.startswith("[") else f"[deliver]\n{text}")
    with pytest.raises(ConfigError) as raised:
        load_daemon(file)
    assert told in str(raised.value) and str(file) in raised.value.where


def test_check_refuses_agentds_own_folder(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that may write there could do anything; so it is said before it is tried."""
    paths.daemon_file.write_text(f"[deliver.file]\nfolder = '{paths.data.parent}'\n")
    assert main(["check", str(paths.daemon_file)]) == 1
    assert "agentd's own files are in" in "".join(capsys.readouterr())


def test_ways_are_as_many_as_tables_and_chats(tmp_path: Path) -> None:
    file = tmp_path / "agentd.toml"
    file.write_text(
        "[deliver.file]\n[deliver.notification]\n"
        "[deliver.telegram]\ntoken = 'secret:t'\nchat_ids = [5, -100]\n"
    )
    assert load_daemon(file).deliver.ways == ("file", "notification", "telegram:5", "telegram:-100")
    assert load_daemon(tmp_path / "none.toml").deliver.ways == ()
