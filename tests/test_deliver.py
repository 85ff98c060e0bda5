"""Results reach a person: the real process under a real supervisor, by the real fetcher."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.approval.signature import person_key
from agentd.approval.unanswered import take_reply, unanswered
from agentd.bus import Bus
from agentd.config.daemon import load_daemon
from agentd.deliver.confined import deliver_policy
from agentd.events import DELIVER
from agentd.sandbox.level import reached
from tests.commandline import agentd
from tests.messengers import CHAT, TOKEN, Messenger, ask, messenger, publish, result
from tests.supervised import QUICK, Daemon, daemon, wait_for

pytestmark = pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")


@pytest.fixture
def phone() -> Iterator[Messenger]:
    with messenger() as one:
        yield one


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    """A supervisor that is still to be configured and started."""
    with daemon(tmp_path / "home", {"AGENTD_SECRET_telegram": TOKEN}) as one:
        yield one


def configure(one: Daemon, deliver: str) -> None:
    one.configure(f"{QUICK}[bus]\npoll = '100ms'\n{deliver}")


def bot(phone: Messenger) -> str:
    """Return the table of a bot."""
    table = f"[deliver.telegram]\nurl = '{phone.url}'\ntoken = 'secret:telegram'\n"
    return f"{table}chat_ids = [{CHAT}]\n"


def started(one: Daemon, *ways: str) -> None:
    """Start it, and wait until all ways are there."""
    one.start()
    wait_for(lambda: {*ways} <= ways_of(one).keys(), f"there are {ways}")


def ways_of(one: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = ((one.status().get("deliver") or {}).get("beat") or {}).get("ways", {})
    return found


def process(one: Daemon) -> Any:
    """Return the pid of what delivers, None while there is none."""
    return (one.status().get("deliver") or {}).get("pid")


def days(folder: Path) -> list[Path]:
    """Return the files of the days: a result of two minutes ago may be yesterday's."""
    return sorted(folder.glob("????-??-??.md"))


def written(folder: Path) -> str:
    return "".join(day.read_text() for day in days(folder))


def test_a_result_reaches_all_ways(running: Daemon, phone: Messenger, tmp_path: Path) -> None:
    """File, ntfy and Telegram; the token stands in no log, and in no status."""
    folder = tmp_path / "days"
    configure(
        running,
        f"[deliver.file]\nfolder = '{folder}'\n[deliver.ntfy]\nurl = '{phone.url}/my-topic'\n"
        f"{bot(phone)}",
    )
    started(running, "file", "ntfy", f"telegram:{CHAT}", "telegram")
    publish(running.paths.database, result("3 new mails", "| a | b |\n|---|---|\n| 1 | 2 |"))
    wait_for(lambda: "3 new mails" in written(folder), "the file")
    wait_for(lambda: len(phone.posts) == 2, "both messages")
    by_path = {path: body for path, body, _ in phone.posts}
    assert by_path["/"]["topic"] == "my-topic" and by_path["/"]["title"] == "3 new mails"
    sent = by_path[f"/bot{TOKEN}/sendMessage"]
    assert sent == {"chat_id": CHAT, "text": "3 new mails\n\n| a | b |\n|---|---|\n| 1 | 2 |"}
    wait_for(lambda: ways_of(running)["telegram"]["state"] == "ok", "it polls")
    assert TOKEN not in str(running.status())
    for log in running.paths.logs.rglob("*.jsonl"):
        assert "ABC-secret" not in log.read_text()
    assert [day.stat().st_mode & 0o777 for day in days(folder)] == [0o600]


def sent_id(phone: Messenger, words: str) -> int:
    """Return the number of the message with these words, once it is there."""
    wait_for(lambda: any(words in text for text in phone.texts), f"{words} is sent")
    return next(n for n, text in enumerate(phone.texts, 1) if words in text)


def test_a_reply_answers_a_question_once(running: Daemon, phone: Messenger) -> None:
    """Who replies is heard, from a listed chat; strangers and bots are not. It is taken once."""
    configure(running, bot(phone))
    started(running, "telegram")
    session = ask(running.paths.database, "Which Paris?")
    asked = sent_id(phone, "asker asks: Which Paris?")
    assert "Reply to this message" in phone.texts[asked - 1]
    phone.say("Texas", asked, chat=CHAT + 1)
    phone.say("Texas", asked, bot=True)
    phone.say("hello", None)
    phone.say("the one in France", asked)
    wait_for(lambda: running.events("person.answer"), "it is answered")
    (answer,) = running.events("person.answer")
    assert (answer["session"], answer["answer"]) == (session, "the one in France")
    sent_id(phone, "asker has your answer.")
    phone.say("no, Texas", asked)
    sent_id(phone, "Not taken: was answered already")
    assert len(running.events("person.answer")) == 1
    assert {body["chat_id"] for _, body, _ in phone.posts} == {CHAT}
    assert phone.polls[-1]["offset"] == 1005 or phone.polls[-1]["offset"] == 1004
    before = len(phone.posts)
    os.kill(running.status()["deliver"]["pid"], signal.SIGKILL)
    wait_for(lambda: phone.polls[-1].get("offset") == 1005, "a new one goes on where it was")
    assert len(running.events("person.answer")) == 1 and len(phone.posts) == before


def test_no_reply_allows_anything(running: Daemon, phone: Messenger) -> None:
    """Not by the bot, and not by the process that hears it: the supervisor takes none."""
    configure(running, bot(phone))
    started(running, "telegram")
    ask(running.paths.database, "write a.txt?", approval=True)
    asked = sent_id(phone, "asker wants to do WriteFile")
    assert "Only on the machine: agentd answer 1 yes" in phone.texts[asked - 1]
    phone.say("yes", asked)
    sent_id(phone, "Only questions are answered by a reply.")
    bus = Bus(running.paths.database)
    key = person_key(running.paths)
    (waits,) = unanswered(bus, key)
    told = take_reply(bus, key, 1, waits.asked.digest, "yes", {"updates:1": {"next": 5}})
    assert told.startswith("Not taken: only on the machine")
    assert bus.facts.of(DELIVER)["updates:1"] == {"next": 5}, "and it is not taken again"
    bus.close()
    assert running.events("person.answer") == []


def test_another_program_that_polls_the_bot_is_told_of(running: Daemon, phone: Messenger) -> None:
    """409: said in status, with what to do, and messages go all the same."""
    error = {"ok": False, "error_code": 409, "description": "Conflict: terminated by other"}
    phone.refuse["getUpdates"] = 409, error
    configure(running, bot(phone))
    started(running, "telegram")
    wait_for(lambda: ways_of(running)["telegram"]["state"] == "failed", "it is told")
    problem = ways_of(running)["telegram"]["problem"]
    assert "Conflict" in problem["what"] and "another program polls" in problem["hint"]
    publish(running.paths.database, result("all the same"))
    sent_id(phone, "all the same")
    polls = len(phone.polls)
    shown = agentd(running.home, "status").stdout
    assert "telegram: failed" in shown and "another program polls this bot" in shown
    assert len(phone.polls) <= polls + 1, "it backs off"


def test_one_way_waits_for_none_of_the_others(
    running: Daemon, phone: Messenger, tmp_path: Path
) -> None:
    """A server that does not answer, a wrong token, a folder that cannot be: each says so."""
    configure(
        running,
        f"[deliver.file]\nfolder = '{tmp_path / 'days'}'\n{bot(phone)}"
        f"[deliver.ntfy]\nurl = '{phone.url}/topic'\ntoken = 'secret:missing'\n",
    )
    phone.hold.clear()
    started(running, "file", "ntfy", "telegram")
    publish(running.paths.database, result("quick"))
    wait_for(lambda: "quick" in written(tmp_path / "days"), "the file has it")
    wait_for(lambda: ways_of(running)["ntfy"]["state"] == "failed", "its token is missing")
    assert "there is no secret missing" in ways_of(running)["ntfy"]["problem"]["what"]
    phone.hold.set()


def test_a_kill_between_sending_and_recording_loses_nothing(
    running: Daemon, phone: Messenger
) -> None:
    """It comes again, under the same id, so that a newer ntfy shows it once."""
    configure(running, f"[deliver.ntfy]\nurl = '{phone.url}/topic'\n")
    started(running, "ntfy")
    phone.hold.clear()
    publish(running.paths.database, result("once or twice"))
    wait_for(lambda: phone.posts, "it is being sent")
    os.kill(running.status()["deliver"]["pid"], signal.SIGKILL)
    phone.hold.set()
    wait_for(lambda: len(phone.posts) == 2, "it is sent again")
    first, second = (body["sequence_id"] for _, body, _ in phone.posts)
    assert first == second
    wait_for(lambda: running.log("deliver.again", DELIVER), "the log says so")
    wait_for(lambda: ways_of(running).get("ntfy", {}).get("last"), "it is recorded")
    os.kill(running.status()["deliver"]["pid"], signal.SIGKILL)
    publish(running.paths.database, result("the next"))
    sent_id(phone, "the next")
    assert len(phone.posts) == 3


def test_a_folder_that_is_removed_is_made_again(
    running: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sandbox knows the old one alone: it is started anew."""
    folder = tmp_path / "deep" / "days"
    configure(running, f"[deliver.file]\nfolder = '{folder}'\n")
    started(running, "file")
    shutil.rmtree(folder.parent)
    publish(running.paths.database, result("after it"))
    wait_for(lambda: "after it" in written(folder), "it is there again", 60)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_agentds_own_folder_is_refused(running: Daemon) -> None:
    """A process that may write there could do anything."""
    configure(running, f"[deliver.file]\nfolder = '{running.paths.data}/keys'\n")
    running.start()
    wait_for(lambda: ways_of(running).get("file", {}).get("state") == "failed", "it says so")
    assert "agentd's own files are in" in ways_of(running)["file"]["problem"]["what"]


def test_deliver_is_there_only_where_a_way_is(running: Daemon, phone: Messenger) -> None:
    """Started, changed and stopped as agentd.toml is saved; without a way nothing is held back."""
    running.start()
    assert running.status()["deliver"] is None
    shown = agentd(running.home, "deliver")
    assert (shown.returncode, "nowhere" in shown.stdout) == (0, True)
    configure(running, f"[deliver.ntfy]\nurl = '{phone.url}/one'\n")
    wait_for(lambda: running.status()["deliver"], "it begins")
    assert "ntfy: ok" in agentd(running.home, "deliver").stdout  # which waits for its first word
    wait_for(lambda: ways_of(running)["ntfy"], "its cursor is there")
    publish(running.paths.database, result("to one"))
    sent_id(phone, "to one")
    before = process(running)
    configure(running, f"[deliver.ntfy]\nurl = '{phone.url}/two'\n")
    wait_for(lambda: process(running) not in (None, before), "another one is there")
    publish(running.paths.database, result("to two"))
    sent_id(phone, "to two")
    assert [body["topic"] for _, body, _ in phone.posts] == ["one", "two"]
    configure(running, "")
    wait_for(lambda: running.status()["deliver"] is None, "it is stopped")
    bus = Bus(running.paths.database)
    wait_for(lambda: not [c for c, _ in bus.lanes.slowest() if DELIVER in c.agent], "no cursor")
    bus.close()


def test_a_test_says_what_came_of_each_way(
    running: Daemon, phone: Messenger, tmp_path: Path
) -> None:
    phone.refuse["sendMessage"] = 403, {"ok": False, "error_code": 403, "description": "blocked"}
    configure(running, f"[deliver.file]\nfolder = '{tmp_path / 'days'}'\n{bot(phone)}")
    started(running, "file", "telegram", f"telegram:{CHAT}")
    done = agentd(running.home, "deliver", "test")
    assert done.returncode == 1
    assert "file  sent\n" in done.stdout
    assert f"telegram:{CHAT}  Telegram answered 403: blocked; write /start" in done.stdout
    assert "agentd can reach you here" in written(tmp_path / "days")


def test_its_sandbox_has_no_network_and_no_key(running: Daemon, tmp_path: Path) -> None:
    """What it may touch is its folder, its log and the database."""
    folder = tmp_path / "days"
    configure(running, f"[deliver.file]\nfolder = '{folder}'\n")
    started(running, "file")
    pid = running.status()["deliver"]["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    config = load_daemon(running.paths.daemon_file).deliver
    policy = deliver_policy(config, running.paths)
    assert policy.sockets == "none" and policy.run == ()
    keys = str(running.paths.keys)
    assert not any(Path(keys).is_relative_to(path) for path in (*policy.read, *policy.write))
    assert str(folder) in policy.write
