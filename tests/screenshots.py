"""Makes the README's pictures of the page anew: `uv run python -m tests.screenshots`.

The real daemon and the bundled model work on made-up mail, notes, headlines and a bill; nobody in
them is real. To be run after a change of the page; takes a few minutes.
"""

import os
import shutil
import sys
import tomllib
from email.message import EmailMessage
from mailbox import Maildir
from pathlib import Path
from typing import Any, Literal

import platformdirs

from agentd.bus import Bus
from agentd.commands.demo.headlines import shipped_headlines
from agentd.commands.demo.temporary import expecting, running_daemon, write_toml
from agentd.events import PERSON, NewEvent
from agentd.models import store
from agentd.paths import HOME_VARIABLE, Paths, discover, shipped
from agentd.sessions.archive import Archive
from agentd.states import Priority, SessionState, WorkerState
from agentd.supervisor.client import query
from tests.browser import a_browser, a_tab
from tests.commandline import agentd
from tests.shipped_world import FEED, ITEM
from tests.site import Site, site

FOLDER = Path(__file__).parents[1] / ".github" / "pictures"
SAMPLE = Path("/tmp/agentd-pictures")  # stands in the pictures
MODEL = "smollm2-135m"
START_S, WORK_S = 300.0, 600.0
SIZE = {"width": 1100, "height": 760}
MAILS = (
    ("The Baker", "An old mail", "This one was there before."),
    ("Stadtwerke", "Your invoice for November", "Please pay 42.10 EUR by the end of the month."),
    ("nas-1", "[ALERT] backup failed", "The backup of nas-1 failed. Look at it immediately."),
    ("Ada", "Dinner on Friday?", "The kids would love to see you. Shall we cook together?"),
    ("Dr. Weber", "Your appointment is confirmed", "We expect you on Thursday at 9:30."),
    ("The Telescope", "Issue 48: first light", "Discover what readers saw this month."),
)
NOTES = {
    "garden.md": "# Garden\n- [ ] paint the fence\n- [x] dig\nDo we need a new spade?\n",
    "house.md": "# House\n- [ ] transfer the rent\n- [ ] call the dentist\n",
    "work.md": "# Work\nTODO prepare the meeting with the client\n",
}
BILL = "Miller's garage, 4 March 2026\nNew tyres. Amount to pay: 400 EUR\n"
LOOKING = ("feed", "mail_triage", "notes")
AGENTS = (*LOOKING, "inbox", "digest")


def main() -> int:
    """Let the agents work, and take the pictures."""
    shutil.rmtree(SAMPLE, ignore_errors=True)
    home = discover({HOME_VARIABLE: str(SAMPLE / "home")})
    try:
        home.create()
        cache = platformdirs.user_cache_dir("agentd-tests", appauthor=False)
        models = Path(os.environ.get("AGENTD_TEST_CACHE") or cache)
        store.pull(MODEL, models)
        home.models.rmdir()
        home.models.symlink_to(models)
        with site() as web:
            _write_agents(home, web)
            with running_daemon(home):
                _work(home, web)
                _take(home)
        return 0
    finally:
        shutil.rmtree(SAMPLE, ignore_errors=True)
        shutil.rmtree(home.sockets, ignore_errors=True)


def _write_agents(home: Paths, web: Site) -> None:
    feed = _news(web, 1)
    for name, text in NOTES.items():
        (SAMPLE / "notes").mkdir(exist_ok=True)
        (SAMPLE / "notes" / name).write_text(text)
    for place in ("Car", "Health", "House"):
        (SAMPLE / "Documents" / place).mkdir(parents=True)
    (SAMPLE / "Downloads").mkdir()
    folders = [str(SAMPLE / "Downloads"), str(SAMPLE / "Documents")]
    looks: dict[str, dict[str, Any]] = {
        "feed": {"first": [{"ReadFeed": feed}]},
        "mail_triage": {"first": [{"ReadMail": str(SAMPLE / "mail")}]},
        "notes": {"first": [{"ReadTasks": str(SAMPLE / "notes")}]},
        "inbox": {"targets": folders[1:]},
        "digest": {},
    }
    allowed: dict[str, dict[str, Any]] = {
        "feed": {"net": [web.host]},
        "mail_triage": {"read": [str(SAMPLE / "mail")]},
        "notes": {"read": [str(SAMPLE / "notes")]},
        "inbox": {"read": folders, "write": folders},
    }
    for name, params in looks.items():
        path = shipped() / "config" / "agents.d" / f"{name}.toml"
        config: dict[str, Any] = tomllib.loads(path.read_text()) | {"enabled": True}
        config.pop("accounts", None)
        config["params"] = config["params"] | params
        if name in allowed:
            config["permissions"] = allowed[name]
        if name == "inbox":
            config["watch"] = [f"{folders[0]}/*"]
        if name == "digest":
            config["batch"]["most"] = len(LOOKING)  # else it waits until the day is over
        write_toml(home.agents_d / f"{name}.toml", config)


def _news(web: Site, items: int) -> str:
    """Put so many headlines into the feed, and as many mails, at most, into the mailbox."""
    titles = list(enumerate(shipped_headlines().about))[:items]
    mail = Maildir(SAMPLE / "mail")
    mail.clear()
    for sender, subject, text in MAILS[:items]:
        message = EmailMessage()
        message["From"], message["Subject"] = f'"{sender}" <post@example.org>', subject
        message["Message-ID"] = f"<{len(subject)}@example.org>"
        message.set_content(text)
        mail.add(message)
    shown = "".join(ITEM.format(title=text, at=at) for at, text in titles)
    return web.url("/feed", "application/rss+xml", FEED.format(items=shown))


def _work(home: Paths, web: Site) -> None:
    """Let every agent look, and look again at what is new, and inbox come to its question."""
    for _ in expecting(START_S, "the agents did not start"):
        states = {agent["name"]: agent["state"] for agent in query(home)["agents"]}
        if all(states.get(name) == WorkerState.RUNNING for name in AGENTS):
            break
    (SAMPLE / "Downloads" / "scan.txt").write_text(BILL)
    bus = Bus(home.database, wake=home.wake)
    _ask(bus, *LOOKING)
    archive = Archive(bus)
    for _ in expecting(WORK_S, "the agents did not look"):
        if all(archive.list(agent=name, state=SessionState.ENDED) for name in LOOKING):
            break
    _news(web, len(MAILS) * 5)
    _ask(bus, "feed", "mail_triage")
    kinds = {"feed.ranked", "mail.triaged", "notes.listed", "digest.written", "person.asked"}
    for _ in expecting(WORK_S, "the agents did not come to an end"):
        if kinds <= {event.event_type for event in bus.events.list(limit=100)}:
            break
    bus.close()


def _ask(bus: Bus, *names: str) -> None:
    for name in names:
        event = NewEvent("agent.trigger", {}, target=name)
        bus.publish(PERSON, event, priority=Priority.PERSON, system=True)


def _take(home: Paths) -> None:
    bus = Bus(home.database)
    session = Archive(bus).list(agent="mail_triage", limit=1)[0]
    bus.close()
    pictures: dict[str, tuple[str, Literal["light", "dark"]]] = {
        "today": ("/", "light"),
        "session": (f"/sessions/{session.id}", "dark"),
    }
    link = agentd(home.user, "ui", "--print").stdout.strip()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with a_browser() as browser, a_tab(browser, link.partition("/enter/")[0], viewport=SIZE) as tab:
        tab.enter(link)
        for name, (path, scheme) in pictures.items():
            tab.page.emulate_media(color_scheme=scheme)
            file = FOLDER / f"{name}.png"
            tab.go(path).screenshot(path=file)
            print(f"{file.name}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    sys.exit(main())
