"""The daemon and its agents: the supervisor's own view, merged with what the bus says of each."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from agentd.bus import AgentRow, Bus, Opening, sql
from agentd.clock import iso
from agentd.config.agent_files import overlooked
from agentd.errors import StorageError
from agentd.events import Lane, result_of
from agentd.paths import Paths
from agentd.sessions.archive import Archive
from agentd.sessions.trouble import trouble
from agentd.states import WorkerState
from agentd.storage.database_files import open_bus
from agentd.supervisor.client import last_failure
from agentd.views.agent_triggers import NO_TRIGGERS, triggers
from agentd.views.daemon_state import daemon_state, labels_by, with_external
from agentd.views.machine_use import MachineUse
from agentd.views.waits_for import waits_for

DAEMON_KEYS = (
    *("pid", "since", "version", "problem", "refused_folder", "storage", "model"),
    *("refused_unshown", "sandbox", "deliver", "watcher", "ui", "workers"),
)
LOOK_BACK = timedelta(hours=1)  # for how long a model worked for an agent
RECENT_EVENTS = 20_000  # the newest ones, among which an agent's last result is looked for
BUSY_MS = 1_000  # for a lock on the database; what the daemon itself says is worth more
UNKNOWN: dict[str, Any] = {
    "paused": False,
    "subscribe": [],
    "waiting": {"direct": 0, "subscribed": 0},
    "last_session": None,
    "labels": None,
    "dead_letters": 0,
    "asks": 0,
    "last_result": None,
    "model_s": 0.0,
}


def overview(paths: Paths) -> dict[str, Any]:
    """Return what `agentd status --json` prints; its help says what each key is.

    Never an error in its place: what cannot be had is missing, and `silence` (why a daemon that is
    there does not answer), `storage` and `failure` say why.
    """
    silence = None
    try:
        daemon = daemon_state(paths, use=True)
    except StorageError as error:
        daemon, silence = None, error.document()
    if daemon and daemon["model"]:
        daemon = {**daemon, "model": with_external(daemon["model"], paths)}
    document, after = overview_of(daemon, paths, silence=silence), None
    if daemon is not None:
        with suppress(StorageError):  # it has just begun to hang
            after = daemon_state(paths, use=True)
    add_use(document, daemon, after)
    return document


def overview_of(
    daemon: Mapping[str, Any] | None,
    paths: Paths,
    bus: Bus | None = None,
    silence: Mapping[str, Any] | None = None,
    only: str | None = None,
) -> dict[str, Any]:
    """Return the overview by what the supervisor said (None: it did not, see `silence`).

    `bus`: a database that is open already; else it is opened for this. `only`: of the agents this
    one alone, and nothing is looked up for others.
    """
    silent = silence is not None
    said = daemon["agents"] if daemon else ()
    document: dict[str, Any] = {
        "running": daemon is not None or silent,
        "answers": daemon is not None,
        "home": str(paths.user),
        **{key: daemon and daemon.get(key) for key in DAEMON_KEYS},
        "silence": silence,
        "failure": None if daemon or silent else last_failure(paths),
        "overlooked": [] if only else [item.document() for item in overlooked(paths)],
        "last_event_id": 0,
        "dead_letters": 0,
        "asks": 0,
        "agents": [dict(agent) for agent in said if only in (None, agent["name"])],
    }
    try:
        if bus is not None:
            _add_facts(document, bus, only)
        elif paths.database.exists():
            bus = open_bus(paths, Opening(create=False, busy_ms=BUSY_MS))
            _add_facts(document, bus, only)
            bus.close()
    except StorageError as error:  # the supervisor's own view is worth showing all the same
        seen = error.document()
        said = document["storage"] or {}
        document["storage"] = {**said, "problem": said.get("problem") or seen}
    for agent in document["agents"]:  # what the database would have told of it
        known = {**UNKNOWN, "triggers": NO_TRIGGERS, "held": None}
        agent.update({key: agent.get(key, value) for key, value in known.items()})
        agent["next_run"] = _next_run(agent["triggers"])
        agent["waits_for"] = waits_for(agent, document)
    return document


def add_use(
    document: dict[str, Any], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> None:
    """Say what the processes take: memory, and CPU between two answers of the supervisor."""
    took = MachineUse(before, after)
    document["memory_bytes"] = took.of(document["pid"])["memory_bytes"]
    if document["model"]:
        document["model"].update(took.of(document["model"].get("pid")))
    for agent in document["agents"]:
        agent.update(took.of(agent["pid"], took.hands.get(agent["name"])))


def _add_facts(document: dict[str, Any], bus: Bus, only: str | None) -> None:
    rows, letters = bus.agents.present(), bus.dead.counts()
    asks = Archive(bus).parked()
    model_s = Archive(bus).model_seconds(bus.clock.now() - LOOK_BACK)
    known = {agent["name"] for agent in document["agents"]}
    if not document["answers"]:
        resting = "UNKNOWN" if document["running"] else WorkerState.STOPPED.value
        stopped = {"state": resting, "pid": None, "since": None}
        more = {"restarts": 0, "reason": "", "problem": None}
        missing = [name for name in rows if name not in known and only in (None, name)]
        document["agents"] += [{"name": name, **stopped, **more} for name in missing]
    for agent in document["agents"]:
        name = agent["name"]
        agent["triggers"] = triggers(agent, document["watcher"], bus)
        said = {"paused": agent["paused"]} if "paused" in agent else {}  # also of one without a row
        agent.update({**_facts(bus, name, rows.get(name)), **said})
        agent["dead_letters"] = letters.get(name, 0)
        agent["asks"] = asks.get(name, 0)
        agent["last_result"] = _result(bus, name)
        agent["model_s"] = model_s.get(name, 0.0)
        _add_trouble(agent, bus)
    document["agents"].sort(key=lambda agent: agent["name"])
    if document["model"]:
        document["model"]["labels"] = labels_by(document["model"], bus)
    document["last_event_id"] = bus.events.last_id()
    document["dead_letters"], document["asks"] = sum(letters.values()), sum(asks.values())


def _add_trouble(agent: dict[str, Any], bus: Bus) -> None:
    """Say why an agent that runs does not get on."""
    found = trouble(bus.db, agent["name"])
    agent["held"] = None
    if found is None:
        return
    until = iso(found.until) if found.until else None
    agent["held"] = {"reason": found.reason, "until": until, "hint": found.hint}
    if agent["state"] == WorkerState.RUNNING:
        agent["state"] = found.state.value
        agent["reason"] = found.reason
        agent["problem"] = agent["problem"] or {
            "what": found.reason,
            "where": "",
            "hint": found.hint,
        }


def _facts(bus: Bus, name: str, row: AgentRow | None) -> dict[str, Any]:
    if row is None:
        return dict(UNKNOWN)  # never accepted
    found = bus.db.run(sql.LAST_SESSION, (name,))
    keys = ("id", "state", "started_at", "ended_at")
    return {
        "paused": row.paused,
        "subscribe": list(row.subscribe),
        "waiting": {
            "direct": bus.lanes.waiting(Lane(name, direct=True)),
            "subscribed": bus.lanes.waiting(Lane(name, False, row.subscribe, row.where)),
        },
        "last_session": dict(zip(keys, found[0], strict=True)) if found else None,
        "labels": Archive(bus).labels_by(name),
    }


def _result(bus: Bus, agent: str) -> dict[str, Any] | None:
    """Return the newest result of an agent, if it is among the newest events."""
    event = bus.events.newest_result(agent, RECENT_EVENTS)
    if event is None:
        return None
    return {
        "id": event.id,
        "title": result_of(event)[0],
        "created_at": iso(event.created_at),
    }


def _next_run(triggers: Mapping[str, Any]) -> str | None:
    due = (triggers["next"], *(one["due"] for one in triggers["later"]))
    return min((text for text in due if text), default=None)
