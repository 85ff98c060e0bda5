"""Results reach a person: the real process under a real supervisor, by the real fetcher."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agentd.sandbox.level import reached
from tests.messengers import CHAT, TOKEN, Messenger, messenger, publish, result
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


def today(folder: Path) -> str:
    path = folder / f"{datetime.now():%Y-%m-%d}.md"
    return path.read_text() if path.exists() else ""


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
    wait_for(lambda: "3 new mails" in today(folder), "the file")
    wait_for(lambda: len(phone.posts) == 2, "both messages")
    by_path = {path: body for path, body, _ in phone.posts}
    assert by_path["/"]["topic"] == "my-topic" and by_path["/"]["title"] == "3 new mails"
    sent = by_path[f"/bot{TOKEN}/sendMessage"]
    assert sent == {"chat_id": CHAT, "text": "3 new mails\n\n| a | b |\n|---|---|\n| 1 | 2 |"}
    wait_for(lambda: ways_of(running)["telegram"]["state"] == "ok", "it polls")
    assert TOKEN not in str(running.status())
    for log in running.paths.logs.rglob("*.jsonl"):
        assert "ABC-secret" not in log.read_text()
    assert (folder / f"{datetime.now():%Y-%m-%d}.md").stat().st_mode & 0o777 == 0o600
