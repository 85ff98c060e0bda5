"""The newest lines of the logs, as people look at them: by level, by agent, by session."""

from collections.abc import Mapping
from typing import Any

from agentd.logs.newest import newest
from agentd.logs.view import keys, log_names, parse, rank
from agentd.paths import Paths
from agentd.terminal import cut

LINES_MAX = 200  # given at a time
KEYS_CHARACTERS_MAX = 2_000  # of one line
TRACE_CHARACTERS_MAX = 20_000


def log_lines(
    paths: Paths,
    *,
    agent: str | None = None,
    level: str | None = None,
    session: int | None = None,
    before: str = "",
    limit: int = LINES_MAX,
) -> dict[str, Any]:
    """Return lines, the newest first: of a level and above, of an agent, of a session.

    A line has ts, level, agent, event, keys (the others with their values, in words), exception,
    session_id and event_id. `older` is the `before` of the lines that come next; null where none
    are left. `read_all` is false where more of the logs is there than was looked at: with `older`
    null nothing fits in what was.
    """

    def wanted(entry: Mapping[str, Any]) -> bool:
        return (
            bool(entry)
            and (level is None or rank(entry.get("level")) >= rank(level))
            and (session is None or entry.get("session_id") == session)
        )

    found = newest(paths, [agent] if agent else (), wanted=wanted, before=before, limit=limit)
    lines = [_line(parse(line)) for line in found.lines]
    return {
        "lines": lines,
        "older": found.oldest if lines and not found.read_all else None,
        "read_all": found.read_all,
        "names": log_names(paths.logs),
    }


def _line(entry: Mapping[str, Any]) -> dict[str, Any]:
    trace = entry.get("exception")
    head = {key: str(entry.get(key, "")) for key in ("ts", "level", "agent", "event")}
    ids = {key: _id(entry.get(key)) for key in ("session_id", "event_id")}
    others = {key: value for key, value in entry.items() if not ids.get(key)}
    return {
        **head,
        **ids,
        "keys": cut(keys(others), KEYS_CHARACTERS_MAX),
        "exception": cut(trace, TRACE_CHARACTERS_MAX) if isinstance(trace, str) else None,
    }


def _id(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 63 else None
