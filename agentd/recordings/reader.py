"""Reads a recording's text; see recording_file.py for the format."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from agentd import context
from agentd.config.wording import first
from agentd.errors import RecordingError
from agentd.recordings.lines import StepLine, step_of
from agentd.recordings.recording import (
    FORMAT,
    MARK,
    TITLE,
    Fixture,
    Head,
    HeadPart,
    Listing,
    Page,
    Recording,
    Repository,
    Whole,
)
from agentd.sessions.steps import LOGGED, Step

# Not from JSON by Pydantic itself, which refuses half a file name (a lone surrogate).
ENTRIES = TypeAdapter(
    dict[str, Whole | Literal["link", "special"] | None], config=ConfigDict(strict=True)
)
AGAIN = "record the session again with this agentd"


def read(text: str, where: str) -> Recording:
    """Read a recording's text; `where` stands in errors.

    Raises:
        RecordingError: it is no recording, of another format, cut off or damaged.
    """
    lines = text.split("\n")
    _check_title(lines[0].rstrip("\r"), where)
    if "\r" in lines[0]:
        raise RecordingError(
            "its line ends were changed to CRLF", where=where, hint="keep it out of autocrlf"
        )
    if lines[-2:] != ["=== end", ""]:
        raise RecordingError(
            f"is cut off after line {len(lines)}: it has no `=== end`", where=where, hint=AGAIN
        )
    return _Reader(where).read(list(_sections(lines[1:-2])))


def _check_title(title: str, where: str) -> None:
    if title.startswith("\ufeff"):
        raise RecordingError(
            "begins with a byte order mark, which some editor wrote", where=where, hint=AGAIN
        )
    if title.startswith("version https://git-lfs"):
        raise RecordingError(
            "is a pointer of Git LFS", where=where, hint="`git lfs pull` fetches it"
        )
    if not title.startswith(TITLE):
        raise RecordingError(
            "is no recording: it does not begin with `agentd recording`",
            where=where,
            hint="`agentd record SESSION` writes one",
        )
    found = title.removeprefix(TITLE)
    if found != str(FORMAT):
        raise RecordingError(
            f"is a recording of format {found}; this agentd reads format {FORMAT}",
            where=where,
            hint=AGAIN,
        )


def _sections(lines: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
    """Yield each section's line number, first word, the rest of its title, and its text."""
    start, title, body = 0, "", list[str]()
    for number, line in enumerate([*lines, "=== "], 2):
        if not line.startswith("==="):
            body.append(line[1:] if line.startswith("\\") and MARK.match(line) else line)
            continue
        if title:
            word, _, rest = title.partition(" ")
            yield start, word, rest, "\n".join(body)
        start, title, body = number, line.removeprefix("=== "), []


class _Reader:
    def __init__(self, where: str) -> None:
        self._where = where
        self._at = self._where  # the section being read

    def read(self, sections: Sequence[tuple[int, str, str, str]]) -> Recording:
        head: Head | None = None
        messages, log, lines = [], "", list[StepLine]()
        files: dict[str, bytes] = {}
        folders: dict[str, Listing] = {}
        repositories: dict[str, Repository] = {}
        pages: dict[str, Page] = {}
        for number, word, rest, text in sections:
            self._at = f"{self._where}: line {number}: {word}"
            try:
                name = json.loads(rest) if rest.startswith('"') else rest
                match word:
                    case "head":
                        head = Head.model_validate(json.loads(text))
                    case "prompt":
                        messages.append({"role": name, "content": text})
                    case "log":
                        log = text
                    case "steps":
                        lines = [StepLine.model_validate(json.loads(x)) for x in text.split("\n")]
                    case "file":
                        files[name] = text.encode()
                    case "base64":
                        files[name] = _bytes(text)
                    case "folder":
                        folders[name] = ENTRIES.validate_python(json.loads(text))
                    case "repository":
                        about, _, pack = text.partition("\n")
                        known = _RepositoryHead.model_validate(json.loads(about))
                        repositories[name] = known.with_pack(_bytes(pack))
                    case "page":
                        about, _, body = text.partition("\n")
                        pages[name] = Page(_PageHead.model_validate(json.loads(about)).url, body)
                    case _:
                        raise ValueError("there is no such section")
            except ValidationError as error:
                found = error.errors(include_url=False, include_input=False)
                raise self._error(first(found, word)) from error
            except RecursionError as error:
                raise self._error("nests too deeply") from error
            except ValueError as error:
                raise self._error(str(error)) from error
        self._at = self._where
        if head is None or not messages or not log or not lines:
            raise self._error("lacks its head, prompt, log or steps")
        steps, texts = self._steps(lines, log)
        fixture = Fixture(files, folders, repositories, pages)
        given = frozenset(line.seq for line in lines if line.given)
        return Recording(head, tuple(messages), steps, texts, given, fixture)

    def _steps(
        self, lines: Sequence[StepLine], log: str
    ) -> tuple[tuple[Step, ...], dict[int, str]]:
        try:
            events = context.parse(log)
        except (ValueError, RecursionError) as error:
            raise self._error(f"the log cannot be read: {error}") from error
        texts = [match[0] for match in context.EVENT.finditer(log)]
        shown = [line for line in lines if line.kind in LOGGED]
        if len(shown) != len(events):
            raise self._error(f"the log has {len(events)} events, but {len(shown)} steps say so")
        of = {line.seq: event for line, event in zip(shown, events, strict=True)}
        steps = tuple(step_of(line, of.get(line.seq)) for line in lines)
        if [step.seq for step in steps] != list(range(1, len(steps) + 1)):
            raise self._error("its steps are not numbered 1, 2, 3 ...")
        return steps, dict(zip(of, texts, strict=True))

    def _error(self, what: str) -> RecordingError:
        return RecordingError(f"is damaged: {what}", where=self._at, hint=AGAIN)


class _RepositoryHead(HeadPart):
    head: str
    refs: dict[str, str]
    shallow: tuple[str, ...]

    def with_pack(self, pack: bytes) -> Repository:
        return Repository(self.head, self.refs, self.shallow, pack)


class _PageHead(HeadPart):
    url: str


def _bytes(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)
