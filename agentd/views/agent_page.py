"""One agent as a page shows it: what it did, what went wrong, what it may do, its file."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from agentd.bus import Bus
from agentd.clock import iso
from agentd.config.agent import AgentConfig, validate_agent
from agentd.config.toml import parse_toml, read_small
from agentd.errors import ConfigError
from agentd.logs.newest import ReadBudget, entries_back
from agentd.paths import Paths
from agentd.sessions.archive import Archive, SessionRow
from agentd.states import SessionState
from agentd.views.open_questions import open_questions
from agentd.views.permission_words import permission_words
from agentd.views.result_list import results

SESSIONS, RESULTS, LETTERS = 10, 5, 20
# What an agent's own log says of runs that were left out, and how much of its end is looked at.
SKIPPED = {"schedule.skipped": "schedule", "later.skipped": "later", "file.skipped": "file"}
SKIPPED_MAX, LOG_BYTES = 5, 262_144


def agent_page(bus: Bus, paths: Paths, agent: Mapping[str, Any]) -> dict[str, Any]:
    """Return all about one agent of the overview.

    Beside the overview's keys: questions, results, sessions, letters (those that it gave up),
    last_error (null or {what, at, session}), skipped (runs left out for being late), file {path,
    text, problem}, module, description, done, and may (its permissions in words).
    """
    name = agent["name"]
    file = paths.agents_d / f"{name}.toml"
    text, config, problem = read_file(file)
    sessions = [_session(row) for row in Archive(bus).list(agent=name, limit=SESSIONS)]
    letters = [letter.document() for letter in bus.dead.list(name, limit=LETTERS)]
    return {
        **agent,
        "questions": [one for one in open_questions(bus) if one["agent"] == name],
        "results": results(bus, agent=name, limit=RESULTS),
        "sessions": sessions,
        "letters": letters,
        "last_error": _last_error(bus, name, letters),
        "skipped": [*islice(_skipped(paths.log(name)), SKIPPED_MAX)],
        "file": {"path": str(file), "text": text, "problem": problem},
        "module": config and config.agent,
        "description": config.description if config else "",
        "done": config.done if config else "",
        "may": [] if config is None else permission_words(config),
    }


def read_file(file: Path) -> tuple[str, AgentConfig | None, dict[str, Any] | None]:
    """Return what stands in an agent's file, what that means, and what is wrong with it."""
    text = ""
    try:
        data = read_small(file)
        text = data.decode("utf-8", "replace")
        return text, validate_agent(parse_toml(data, file), file), None
    except ConfigError as error:
        return text, None, error.document()


def _session(row: SessionRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.shown_state,
        "event_type": row.event_type,
        "event_id": row.event_id,
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at) if row.ended_at else None,
        "turns": row.turns,
        "error": row.error,
    }


def _last_error(bus: Bus, name: str, letters: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the newest of what failed, or was given up."""
    found: list[dict[str, Any]] = [
        {"what": row.error or "it failed", "at": _ended(row), "session": row.id}
        for row in Archive(bus).list(agent=name, state=SessionState.FAILED, limit=1)
    ]
    found += [
        {"what": one["error"], "at": one["dead_at"], "session": one["session_id"]}
        for one in letters[:1]
    ]
    return max(found, key=lambda one: str(one["at"]), default=None)


def _ended(row: SessionRow) -> str:
    return iso(row.ended_at or row.started_at)


def _skipped(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the runs that were left out, newest first: what for, when due, when that was found."""
    for _, _, entry in entries_back(log, ReadBudget(LOG_BYTES)):
        if entry.get("event") in SKIPPED:
            what = entry.get("schedule") or SKIPPED[entry["event"]]
            yield {"what": str(what), "due": entry.get("due"), "at": entry.get("ts")}
