"""Writes a recording as text; see text.py for the format."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from agentd.replay.lines import line_of
from agentd.replay.recording import FORMAT, MARK, TITLE, Recording

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
        parts.append(_section(f"folder {_name(name)}", _pretty(dict(listing.entries))))
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
    return json.dumps(value, indent=1, ensure_ascii=not _utf8(value))


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=not _utf8(value))


def _utf8(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, such as half a file name
        return False
    return True


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
