"""Makes the recordings of tests/recordings/ anew: `uv run python -m tests.record`.

The real daemon, its model server with the bundled model, and the shipped agents work on a small
repository in a folder of a neutral name. To be run after a change of a shipped agent or prompt;
takes a few minutes. The model has 135M parameters: what it says means little, and is legal.
"""

import os
import shutil
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import platformdirs

from agentd.approval.signature import person_key
from agentd.approval.unanswered import give, unanswered
from agentd.bus import Bus
from agentd.commands.demo.temporary import expecting, running_daemon, write_toml
from agentd.events import PERSON, Lane, NewEvent
from agentd.models import store
from agentd.paths import HOME_VARIABLE, Paths, discover, shipped
from agentd.recordings import recording_file
from agentd.replay.code import Workshop
from agentd.replay.recorder import record_session
from agentd.sessions.archive import Archive
from agentd.states import Priority, WorkerState
from agentd.supervisor.client import query
from tests.repository import ENVIRONMENT, Repository
from tests.shipped_world import NAMES, ShippedWorld
from tests.site import site

FOLDER = Path(__file__).parent / "recordings"
SAMPLE = Path("/tmp/agentd-sample")  # stands in the recordings
MODEL = "smollm2-135m"
REPO = ("repo_fetch", "repo_review")
DESK = ("inbox", "brief")
DROP, SHELF, CALENDAR = SAMPLE / "drop", SAMPLE / "documents", SAMPLE / "calendar.ics"
BILL = "Miller's garage, 4 March 2026\nNew tyres for the car. Amount to pay: 400 EUR\n"
WEEKLY = (
    "BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:1\nSUMMARY:Dentist\nLOCATION:Room 2\n"
    "DTSTART:20260101T090000\nDTEND:20260101T100000\nRRULE:FREQ=DAILY\n"
    "END:VEVENT\nEND:VCALENDAR\n"
)
START_S, WORK_S = 300.0, 900.0
DATE = "2026-01-15T10:00:00Z"
LONG = "".join(f"def step_{n}():\n    return {n}\n\n\n" for n in range(40))
READER = {  # one whose model decides each step
    "agent": "task",
    "done": "The notes were looked at and one sentence says what they are about.",
    "subscribe": ["note.changed"],
    "params": {
        "instructions": "Read the note of the event, then say in one sentence what it is about.",
        "tools": ["ReadFile", "SearchText"],
        "publish": "note.read",
    },
    "limits": {"turns": 5, "decision_tokens": 64, "result_tokens": 200},
    "permissions": {"read": [str(SAMPLE / "notes")]},
}


def main() -> int:
    """Run the agents, record their sessions, and say which."""
    shutil.rmtree(SAMPLE, ignore_errors=True)
    home = discover({HOME_VARIABLE: str(SAMPLE / "home")})
    try:
        home.create()
        models_folder = Path(
            os.environ.get("AGENTD_TEST_CACHE")
            or platformdirs.user_cache_dir("agentd-tests", appauthor=False)
        )
        store.pull(MODEL, models_folder)
        shutil.rmtree(home.models)
        home.models.symlink_to(models_folder)
        with site() as web, running_daemon(home):
            world = ShippedWorld(SAMPLE / "world", web)
            _configure(home, world)
            _work(home, world)
        for path in FOLDER.glob(f"*{recording_file.SUFFIX}"):
            path.unlink()
        return _record(home)
    finally:
        shutil.rmtree(SAMPLE, ignore_errors=True)
        shutil.rmtree(home.sockets, ignore_errors=True)


def sample() -> Repository:
    """Make the repository and the notes that the agents look at, the same every time."""
    ENVIRONMENT.update(GIT_AUTHOR_DATE=DATE, GIT_COMMITTER_DATE=DATE)
    repository = Repository(SAMPLE / "project")
    repository.commit("Start", README__md="A small project.\n", app__py="print('hello')\n")
    notes = SAMPLE / "notes"
    notes.mkdir()
    (notes / "today.md").write_text("Water the plants.\nCall the plumber about the kitchen.\n")
    (notes / "open.md").write_text("- [ ] water the plants\n- [x] call the plumber\n")
    (notes / "long.md").write_text("The garden in spring.\n" * 80)
    return repository


def _configure(home: Paths, world: ShippedWorld) -> None:
    repository = sample()
    for name in REPO:
        path = shipped() / "config" / "agents.d" / f"{name}.toml"
        config: dict[str, Any] = _shipped(path, repository)
        write_toml(home.agents_d / f"{name}.toml", config)
    for name in NAMES:
        config = world.agent(name)
        if "batch" in config:
            config["batch"]["within"] = "20s"
        write_toml(home.agents_d / f"{name}.toml", config)
    for name in DESK:
        write_toml(home.agents_d / f"{name}.toml", _of_a_desk(name))
    write_toml(home.agents_d / "reader.toml", READER)


def _of_a_desk(name: str) -> dict[str, Any]:
    """Return inbox or brief, with a folder to sort into, a calendar and the notes."""
    CALENDAR.write_text(WEEKLY)
    DROP.mkdir(exist_ok=True)
    for place in ("Car", "Health"):
        (SHELF / place).mkdir(parents=True, exist_ok=True)
    config = tomllib.loads((shipped() / "config" / "agents.d" / f"{name}.toml").read_text())
    config["enabled"] = True
    config.pop("schedule", None)
    if name == "inbox":
        config["params"] = {"targets": [str(SHELF)]}
        both = [str(DROP), str(SHELF)]
        return config | {"watch": [f"{DROP}/*"], "permissions": {"read": both, "write": both}}
    notes = str(SAMPLE / "notes")
    config["params"] = {"calendar": [str(CALENDAR)], "notes": [notes]}
    return config | {"permissions": {"read": [str(CALENDAR), notes]}}


def _shipped(path: Path, repository: Repository) -> dict[str, Any]:
    config = tomllib.loads(path.read_text())
    config["enabled"] = True
    config.pop("schedule", None)
    config["params"] = dict(config["params"])
    if path.stem == "repo_fetch":
        config["params"]["repo"] = str(repository.path)
    config["permissions"] = {"read": [str(repository.path)]}
    return config


def _work(home: Paths, world: ShippedWorld) -> None:
    """Let every agent answer what there is for it, in two rounds."""
    bus = Bus(home.database, wake=home.wake)
    for _ in expecting(START_S, "the agents did not start"):
        states = {agent["name"]: agent["state"] for agent in query(home)["agents"]}
        if all(
            states.get(name) == WorkerState.RUNNING for name in (*REPO, *NAMES, *DESK, "reader")
        ):
            break
    repository = Repository(SAMPLE / "project", init=False)
    _ask(bus, NewEvent("agent.trigger", {}, target="repo_fetch"))
    _ask(bus, NewEvent("note.changed", {"path": str(SAMPLE / "notes" / "today.md")}))
    _look(bus)
    _settled(bus)
    world.goes_on()
    repository.commit(
        "Print a greeting by name", app__py="import sys\nprint('hello', sys.argv[1])\n"
    )
    repository.commit("Add the steps and their test", steps__py=LONG, **{"test_app__py": "1\n"})
    _ask(bus, NewEvent("agent.trigger", {}, target="repo_fetch"))
    _ask(bus, NewEvent("note.changed", {"path": str(SAMPLE / "notes" / "long.md")}))
    _look(bus)
    _settled(bus)
    _ask(bus, NewEvent("agent.trigger", {}, target="repo_fetch"))
    _settled(bus)
    (DROP / "scan.txt").write_text(BILL)
    for _ in expecting(WORK_S, "the inbox asked nothing"):
        if waiting := list(unanswered(bus, key := person_key(home))):
            break
    give(bus, key, waiting[0].asked.session, "yes")
    for _ in expecting(WORK_S, "the file was not moved"):
        if not (DROP / "scan.txt").exists():
            break
    _ask(bus, NewEvent("agent.trigger", {}, target="brief"))
    _settled(bus)
    bus.close()


def _look(bus: Bus) -> None:
    for name in NAMES:
        if name != "digest":  # which waits for the others' results
            _ask(bus, NewEvent("agent.trigger", {}, target=name))


def _ask(bus: Bus, event: NewEvent) -> None:
    bus.publish(PERSON, event, priority=Priority.PERSON, system=True)


def _settled(bus: Bus) -> None:
    rows = bus.agents.list()
    lanes = [Lane(row.name, direct, row.subscribe) for row in rows for direct in (True, False)]
    for _ in expecting(WORK_S, "the agents did not come to an end"):
        if not sum(bus.lanes.waiting(lane) for lane in lanes):
            return


def _record(home: Paths) -> int:
    bus = Bus(home.database)
    archive, failed = Archive(bus), 0
    with Workshop() as workshop:
        for row in reversed(archive.list(limit=1000)):
            began = time.monotonic()
            recording, outcome = record_session(archive, row.id, home, workshop, scrub=True)
            path = FOLDER / f"{row.agent}-{row.id}{recording_file.SUFFIX}"
            recording_file.save(recording, path)
            path.chmod(0o644)
            seconds = time.monotonic() - began
            print(f"{path.name}: {row.turns} turns, {len(recording.given)} given, {seconds:.1f} s")
            if outcome.difference is not None:
                failed += 1
                print(outcome.difference)
    bus.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
