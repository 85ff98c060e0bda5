"""A recording's file: plain text in sections, for people to read and for git to compare.

    agentd recording, format 1
    === head                   JSON: agent, session, event, config, facts, model, version ...
    === prompt system          a message of the prompt; the last one is what comes before the log
    === log                    the event log exactly as the model saw it, to the session's end
    === steps                  a JSON object a line: decisions with the model's raw answer, and
                               what belongs to each event of the log, in its order
    === file 0/src/main.py     a file below the first of the head's volatile paths
    === base64 0/logo.png      the same, of a file that is no plain text
    === folder 0/src           JSON: the entries that a listing showed
    === repository 0           JSON: head, refs, shallow; then a git pack in base64
    === page https://host/     JSON: url; then what the page said
    === end

A section's text ends before the next line that begins with `===`; such a line inside a text is
written with a backslash before it. The file ends with `=== end`, so that a cut one is noticed.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.bus.json_text import is_utf8
from agentd.errors import RecordingError
from agentd.recordings.lines import line_of
from agentd.recordings.reader import read
from agentd.recordings.recording import FORMAT, MARK, TITLE, Recording
from agentd.whole import write_whole

BASE64_COLUMNS = 96


def write(recording: Recording) -> str:
    """Return the recording as its file's text."""
    parts = [
        f"{TITLE}{FORMAT}\n",
        _section("head", _pretty(recording.head.model_dump(mode="json", exclude_defaults=True))),
    ]
    parts += [_section(f"prompt {m['role']}", m["content"]) for m in recording.messages]
    parts.append(_section("log", recording.log()))
    lines = (line_of(step, given=step.seq in recording.given) for step in recording.steps)
    parts.append(_section("steps", "\n".join(map(_line, lines))))
    fixture = recording.fixture
    for name, data in sorted(fixture.files.items()):
        text = _plain_text(data)
        word = "base64" if text is None else "file"
        parts.append(_section(f"{word} {_name(name)}", _base64(data) if text is None else text))
    for name, listing in sorted(fixture.folders.items()):
        parts.append(_section(f"folder {_name(name)}", _pretty(dict(listing))))
    for name, repo in sorted(fixture.repositories.items()):
        head = {"head": repo.head, "refs": dict(repo.refs), "shallow": list(repo.shallow)}
        parts.append(_section(f"repository {_name(name)}", f"{_line(head)}\n{_base64(repo.pack)}"))
    for url, page in sorted(fixture.pages.items()):
        parts.append(_section(f"page {_name(url)}", f"{_line({'url': page.url})}\n{page.text}"))
    return "".join([*parts, "=== end\n"])


def _section(name: str, text: str) -> str:
    lines = [f"\\{line}" if MARK.match(line) else line for line in text.split("\n")]
    return "\n".join([f"=== {name}", *lines]) + "\n"


def _pretty(value: Any) -> str:
    return _json(value, indent=1)


def _line(value: Mapping[str, Any]) -> str:
    return _json(value, separators=(",", ":"))


def _json(value: Any, **options: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, **options)
    # Else there is a lone surrogate, such as half a file name.
    return text if is_utf8(text) else json.dumps(value, **options)


def _name(name: str) -> str:
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)


def _plain_text(data: bytes) -> str | None:
    """Return the text of a file that can stand in ours as it is, else None."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c in "\n\t" for c in text) else None


def _base64(data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return "\n".join(
        text[at : at + BASE64_COLUMNS] for at in range(0, max(1, len(text)), BASE64_COLUMNS)
    )


__all__ = ["SUFFIX", "load", "read", "save", "write"]

SUFFIX = ".recording"
BYTES_MAX = 64_000_000


def load(path: Path) -> Recording:
    """Read a recording's file.

    Raises:
        RecordingError: it is no recording, of another format, cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)  # a device has no size to be asked for
    except OSError as error:
        raise RecordingError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            hint="name a file that `agentd record` wrote, or a session's id",
        ) from error
    if len(data) > BYTES_MAX:
        raise RecordingError(f"is larger than {BYTES_MAX} bytes", where=str(path))
    return read(data.decode("utf-8", "replace"), str(path))


def save(recording: Recording, path: Path) -> None:
    """Write the recording's file, whole or not at all, readable by this user alone.

    Raises:
        RecordingError: it cannot be written, or would not be read again.
    """
    content = write(recording)
    read(content, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise RecordingError(
            f"cannot be written: {error.strerror}", where=str(path), hint="choose another with -o"
        ) from error
