"""Structured logs: one JSON object a line, one file per process, rotated and bounded by us.

Every line has `ts`, `level`, `event` (a stable name, never prose with values in it) and `agent`;
where they apply `session_id`, `event_id`, `turn`, `duration_ms`. Reading is in `view.py`.

    log = configure("repo_fetch", paths, config.logs, agent="repo_fetch")
    log.info("session.ended", session_id=7, duration_ms=81.2)
"""

import json
import logging
import math
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, cast

import structlog

from agentd.clock import Clock, SystemClock, iso
from agentd.config.daemon import LogConfig
from agentd.logs.file import BoundedFile
from agentd.paths import Paths
from agentd.secret_rules import REDACTED, hidden_word, hide, secret_places

Logger = structlog.typing.FilteringBoundLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
TEXT_MAX = 4_000  # characters of one value; the middle of a longer one is cut
LOOKED_AT = 60_000  # characters at either end of a value that are searched for secrets
WORD_MAX = 60  # characters of a text that may well come again, such as a key
LINE_BYTES_MAX = 64_000  # a longer line keeps its first keys only
REPEATED_AFTER_S = 60.0  # a line that goes on repeating is counted at least this often
UNCOUNTED = frozenset({"ts", "duration_ms"})  # keys that may differ between identical lines


class _Sink:
    """Where lines end: filters repeats, writes, and says later what it could not write."""

    def __init__(self, file: BoundedFile, name: str, clock: Clock) -> None:
        self.file = file
        self.name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, Any] = {}
        self._repeats = 0
        self._since = 0.0

    def line(self, entry: Mapping[str, Any]) -> None:
        """Write one line, unless it is the last one again."""
        same = {key: value for key, value in entry.items() if key not in UNCOUNTED}
        with self._lock:
            if same == self._last:
                self._repeats += 1
                if self._clock.monotonic() - self._since >= REPEATED_AFTER_S:
                    self._close_repeats()
                return
            self._close_repeats()
            self._last = same
            self._write(entry)

    debug = info = warning = error = critical = line

    def flush(self) -> None:
        """Write the count of a line that was repeating."""
        with self._lock:
            self._close_repeats()
            self._last = {}

    def bound(self) -> None:
        """Remove files, whoever wrote them, until all fit."""
        with self._lock:
            self.file.bound()

    def _close_repeats(self) -> None:
        self._since = self._clock.monotonic()
        if not self._repeats:
            return
        last, count = self._last, self._repeats
        self._repeats = 0
        self._own("log.repeated", last["level"], last["agent"], repeated=last["event"], count=count)

    def _write(self, entry: Mapping[str, Any]) -> None:
        dropped = self.file.dropped
        if self.file.write(_encode(entry)) and dropped:
            self.file.dropped = 0
            self._own("log.dropped", "warning", self.name, count=dropped)

    def _own(self, event: str, level: str, agent: str, **keys: Any) -> None:
        ts = iso(self._clock.now())
        self.file.write(_encode({"ts": ts, "level": level, "event": event, "agent": agent, **keys}))


class _Library(logging.Handler):
    """Brings warnings of libraries, which use stdlib logging, into the same file."""

    def emit(self, record: logging.LogRecord) -> None:
        keys: dict[str, Any] = {"library": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            keys["exc_info"] = record.exc_info[1]
        level = min(record.levelno // 10 * 10, logging.ERROR)
        structlog.get_logger().log(level, "library.log", **keys)


_sink: _Sink | None = None
_threshold = LEVELS["info"]


def configure(
    name: str,
    paths: Paths,
    config: LogConfig,
    *,
    agent: str | None = None,
    clock: Clock | None = None,
) -> Logger:
    """Send this process's log to `logs/NAME/NAME.jsonl` and return its logger.

    Called again, it moves the log and applies the new bounds. A full disk never raises: lines are
    dropped, and counted in a `log.dropped` line once writing works again. `agent` (default:
    `name`) stands in every line that does not name another.
    """
    global _sink
    clock = clock or SystemClock()
    close()
    file = BoundedFile(
        paths.log(name),
        file_bytes=config.file_bytes,
        files=config.files,
        total_bytes=config.total_bytes,
    )
    _sink = _Sink(file, name, clock)
    set_level(config.level)

    def stamp(_logger: object, level: str, entry: MutableMapping[str, Any]) -> dict[str, Any]:
        if LEVELS[level] < _threshold:
            raise structlog.DropEvent
        head = {
            "ts": iso(clock.now()),
            "level": level,
            "event": entry.pop("event", ""),
            "agent": entry.pop("agent", agent or name),
        }
        return {**head, **entry}

    sink = _sink
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            stamp,
            _exception,
            _redact,
            lambda _logger, _level, entry: ((entry,), {}),
        ],
        # Its threshold is fixed when a logger is made; ours, in `stamp`, can change on a reload.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_args: sink,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _Library) for handler in root.handlers):
        root.addHandler(_Library(logging.WARNING))
    logging.captureWarnings(True)
    return get_logger()


def get_logger(**keys: Any) -> Logger:
    """Return the process's logger, with `keys` in each of its lines.

    Before `configure` it prints to stdout, as structlog does by itself.
    """
    return cast(Logger, structlog.get_logger(**keys))


def set_level(level: str) -> None:
    """Change the lowest level that is written: debug, info, warning, error."""
    global _threshold
    _threshold = LEVELS[level]


def set_limits(config: LogConfig) -> None:
    """Apply a changed level and changed bounds to the open log."""
    set_level(config.level)
    if _sink is not None:
        _sink.file.limit(
            file_bytes=config.file_bytes, files=config.files, total_bytes=config.total_bytes
        )


def bound() -> None:
    """Hold the bound over all processes' files, for those that may not see each other's."""
    if _sink is not None:
        _sink.bound()


def dropped() -> int:
    """Return how many lines could not be written since writing last worked."""
    return _sink.file.dropped if _sink is not None else 0


def close() -> None:
    """Write what is still counted and close the file. Call it last in a process."""
    if _sink is not None:
        _sink.flush()
        _sink.file.close()


def _exception(
    _logger: object, _level: str, entry: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    problem = entry.pop("exc_info", None)
    if problem is True:
        problem = sys.exc_info()[1]
    if isinstance(problem, tuple):
        problem = problem[1]
    if isinstance(problem, BaseException):
        entry["exception"] = "".join(traceback.format_exception(problem))
    return entry


def _redact(
    _logger: object, _level: str, entry: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return cast(MutableMapping[str, Any], redact(entry))


def redact(value: Any) -> Any:
    """Return `value` as JSON-like data with secrets replaced and long texts cut in the middle.

    Secret is what stands under a key such as `token`, `api_key` or `authorization` (not
    `prompt_tokens`), and what the rules of `secret_rules` find in a text or a key.
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes | bytearray):
        return _text(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        secret = secret_places(value)
        return {
            _text(_key(key)): REDACTED if item and key in secret else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        secret = secret_places(value)
        return [REDACTED if at in secret else redact(item) for at, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [redact(item) for item in value]
    return redact(str(value))


def _key(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)


def _text(text: str) -> str:
    """Return a text without secrets, its middle cut out where it is long.

    Cut only afterwards: half a private key is a secret without a rule that would know it.
    """
    if len(text) <= WORD_MAX:
        return hidden_word(text)
    unseen = max(0, len(text) - 2 * LOOKED_AT)
    if unseen:
        text = text[:LOOKED_AT] + text[-LOOKED_AT:]
    text = hide(text)
    if unseen + len(text) <= TEXT_MAX:
        return text
    half = TEXT_MAX // 2
    return f"{text[:half]} [... {unseen + len(text) - TEXT_MAX} more ...] {text[-half:]}"


def _encode(entry: Mapping[str, Any]) -> bytes:
    # A lone surrogate (an undecodable file name) must not make a line unwritable.
    line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    if len(line) <= LINE_BYTES_MAX:
        return line
    kept = {key: value for key, value in entry.items() if not isinstance(value, dict | list)}
    kept = {key: value for key, value in kept.items() if len(str(value)) < TEXT_MAX // 4}
    return json.dumps({**kept, "cut_bytes": len(line)}).encode() + b"\n"
