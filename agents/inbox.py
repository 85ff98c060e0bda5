"""Sorts files that are dropped into a folder: kind, date, and a place; moves them after a yes.

Code reads a file's beginning, finds its date, and lists the folders that are there. The model only
scores: which kind, which folder. What the file says of itself in its name or first line goes before
that. The one thing that changes anything is a `MoveFile` into one of these folders, which asks.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agentd.agent import Agent, PlannedCall, Result
from agentd.errors import EventRefused, ModelMisconfigured, SessionFailed, ToolError
from agentd.events import FILE, Event, NewEvent
from agentd.llm.decision import DONE, Choice
from agentd.llm.label_phrases import labelled
from agentd.llm.ranking import ranked
from agentd.paths import expanded
from agentd.task_agent.written_result import inert
from agentd.tools.base import clean_line
from agentd.tools.declared_tools import PATH_CHARACTERS

# What a file's beginning scores behind these, and they behind it, tells its kind. With the bundled
# model 10 of 12 texts that were written for it got theirs.
KINDS = {
    "invoice": 'An invoice or a bill to be paid: "',
    "contract": 'A contract between two parties: "',
    "letter": 'A letter to a person: "',
    "manual": 'A manual that says how to use something: "',
    "ticket": 'A ticket for a journey or a show: "',
    "report": 'A report with results and figures: "',
}
INSTRUCTIONS = "Label the document by its kind."
SCORED = "kinds"  # the remembered fact: what the kinds of the last files scored
# A folder has to make the text likelier than no folder does. 9 of those 12 got theirs.
PLACE_HEAD = 'From a folder of documents about {interest}. Document: "'
NO_PLACE = 'From a folder of documents. Document: "'
PLACES_MAX = 30
CHARACTERS = 600  # of a file that are looked at
DATE_CHARACTERS = 4_000
TEXT_SUFFIXES = frozenset({".txt", ".md", ".csv", ".tex", ".rst", ".log", ".ics"})
PAGES = "1-2"
PAGE_MARK = re.compile(r"\[page \d+ of \d+\]")
WORD = re.compile(r"[^\W\d_]{3,}")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
GERMAN = {"mär": 3, "mrz": 3, "mai": 5, "okt": 10, "dez": 12}
MONTH = rf"(?P<%s>{'|'.join((*MONTHS, *GERMAN))})[^\W\d_]*"
DATES = re.compile(
    r"(?<!\d)(?P<y1>\d{4})[-_./](?P<m1>\d{1,2})[-_./](?P<d1>\d{1,2})(?!\d)"
    r"|(?<!\d)(?P<y2>(?:19|20)\d\d)(?P<m2>\d\d)(?P<d2>\d\d)(?!\d)"
    r"|(?<!\d)(?P<d3>\d{1,2})\. ?(?P<m3>\d{1,2})\. ?(?P<y3>\d{4})(?!\d)"
    r"|(?<!\d)(?P<a>\d{1,2})/(?P<b>\d{1,2})/(?P<y4>\d{4})(?!\d)"
    rf"|(?<!\d)(?P<d5>\d{{1,2}})(?:st|nd|rd|th|\.)? (?:of )?{MONTH % 'm5'},? (?P<y5>\d{{4}})(?!\d)"
    rf"|\b{MONTH % 'm6'} (?P<d6>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y6>\d{{4}})(?!\d)",
    re.IGNORECASE,
)
FIRST_YEAR, AHEAD = 1970, timedelta(days=2 * 366)  # dates beyond are taken for other numbers
NO_NAME = frozenset('/\\:*?"<>|')  # not in names of files, on any disk
STEM_CHARACTERS = 80

Kind = Annotated[str, StringConstraints(pattern=r"^\w[\w -]{0,23}$")]


class InboxParams(BaseModel):
    """Where files may go, and what kinds there are."""

    model_config = ConfigDict(extra="forbid")

    targets: list[str] = Field(
        min_length=1, max_length=8, description="Folders; a file may go into the folders in them."
    )
    kinds: dict[Kind, str] = Field(
        default=KINDS,
        min_length=2,
        max_length=16,
        description="Kinds of files, each with a phrase that such a text could follow.",
    )


class FileGiven(BaseModel):
    """What this agent needs of a `file.changed` payload."""

    path: str = Field(min_length=1)
    name: str = Field(min_length=1, pattern=r"^[^/]+$")


class FileSorted(BaseModel):
    """A result: what a file is, and where it could go. `to` is None where it stays."""

    title: str = Field(min_length=1, max_length=200)
    text: str
    file: str
    kind: str | None
    date: str  # 2026-11-24
    dated_by: str  # "text", "name" or "arrival"
    place: str | None
    to: str | None


class FileKept(BaseModel):
    """A result: a file that was to be moved, and was not."""

    title: str = Field(min_length=1, max_length=200)
    text: str
    file: str


class Inbox(Agent[InboxParams]):
    """Sort | Done, both planned: the model is asked for scores alone."""

    Params = InboxParams
    function = "Inbox"
    accepts: ClassVar[Mapping[str, type[BaseModel]]] = {FILE: FileGiven}
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {
        "inbox.sorted": FileSorted,
        "inbox.kept": FileKept,
    }
    reads = frozenset({"Sort"})

    @classmethod
    def plans(cls, params: InboxParams) -> tuple[str, ...]:
        """Return what it reads and lists, and the move, which a person has to allow."""
        return ("ReadFile", "ReadPdf", "ListFiles", "MoveFile")

    @classmethod
    def folders(cls, params: InboxParams) -> Iterable[Path]:
        """Return the folders that it lists."""
        return [expanded(target) for target in params.targets]

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Take the file, and what was read so far."""
        self._path, self._name = (str(event.payload.get(key, "")) for key in ("path", "name"))
        self._came = event.created_at.astimezone().date()
        self._results = results
        self._steps = [*self._reading(), *(self._listing(t) for t in self.params.targets)]

    def opening(self, event: Event) -> Result:
        """Return the file's name.

        Raises:
            EventRefused: it is no event about a file.
        """
        if event.event_type != FILE:
            raise EventRefused(
                "names no file", where=f"event {event.id}", hint="use `agentd send-file PATH`"
            )
        return Result({"name": clean_line(self._name, PATH_CHARACTERS)}, trusted=False)

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall:
        """Read, list, sort; then move, where there is a place."""
        self._results, done = results, len(results)
        if done < len(self._steps):
            return self._steps[done]
        if done == len(self._steps):
            return PlannedCall("Sort")
        to = results[len(self._steps)].get("to")
        if to and done == len(self._steps) + 1:
            return PlannedCall("MoveFile", {"path": self._path, "to": to})
        return PlannedCall(DONE)

    def dispatch(self, decision: Choice) -> Result:
        """Carry a planned step out. What cannot be read is sorted by its name."""
        if decision.name == "Sort":
            return self._sort()
        try:
            return super().dispatch(decision)
        except ToolError as error:
            if decision.name == "ListFiles":
                raise
            return Result({"error": error.what}, trusted=False, effect=False)

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Return what became of the file; publish why where a move failed."""
        self._results, at = results, len(self._steps)
        if len(results) < at:
            raise SessionFailed("its time was up before the file was read")
        if len(results) == at:
            return self._sort()
        error = results[at + 1].get("error") if len(results) > at + 1 else None
        moved = bool(results[at].get("to")) and error is None
        value = {**results[at], "moved": moved}
        if error is None:
            return Result(value, trusted=False)
        told = f"{self._shown()} was not moved"
        kept = FileKept(title=told, text=inert(str(error)), file=self._path)
        return Result(value, False, publish=[NewEvent("inbox.kept", kept.model_dump())])

    def _reading(self) -> Iterator[PlannedCall]:
        suffix = Path(self._name).suffix.lower()
        if suffix in TEXT_SUFFIXES:
            yield PlannedCall("ReadFile", {"path": self._path, "start": None})
        elif suffix == ".pdf":
            yield PlannedCall("ReadPdf", {"path": self._path, "pages": PAGES})

    def _listing(self, target: str) -> PlannedCall:
        return PlannedCall("ListFiles", {"path": target})

    def _sort(self) -> Result:
        """Choose kind, date and place, and say so."""
        reads = len(self._steps) - len(self.params.targets)
        body = PAGE_MARK.sub(" ", str(self._results[0].get("text", ""))) if reads else ""
        listings = self._results[reads:]
        name = " ".join(WORD.findall(Path(self._name).stem))
        first = next((line for line in body.split("\n") if line.strip()), "")[:CHARACTERS]
        text = " ".join(f"{name} {body[: 2 * CHARACTERS]}".split())[:CHARACTERS]
        known = bool(body.strip()) or len(name.split()) > 1  # "IMG 4411" is nothing to go by
        kind, remember = self._kind(f"{name} {first}", text) if known else (None, {})
        day, by = self._date(body)
        places = self._places(listings)
        place = self._place(places, f"{kind or ''} {name} {first}", text) if known else None
        to = None
        if place is not None:
            to = f"{places[place]}/{self._proposed(day, kind, places[place])}"
            if max(len(to), len(self._path)) > PATH_CHARACTERS:
                place = to = None
        found = {"kind": kind, "date": day.isoformat(), "place": place, "to": to}
        about = f"{kind or 'a file'} of {day}"
        whither = "stays" if place is None else f"for {clean_line(place, 60)}"
        goes = f"could go to {inert(to)}" if to else "stays where it is"
        result = FileSorted(
            title=f"{self._shown()}: {about}, {whither}",
            text=f"* dated by its {by}\n* {goes}",
            file=self._path,
            dated_by=by,
            **found,
        )
        publish = [NewEvent("inbox.sorted", result.model_dump())]
        return Result(found, trusted=False, publish=publish, remember=remember)

    def _shown(self) -> str:
        return clean_line(self._name, 60)

    def _kind(self, says: str, text: str) -> tuple[str | None, dict[str, Any]]:
        """Return the kind that the file names itself, else the one that goes best with it."""
        if (own := named(self.params.kinds, says)) is not None:
            return own, {}
        try:
            (label,), seen = labelled(self.kit, SCORED, self.params.kinds, [text], INSTRUCTIONS)
        except ModelMisconfigured:  # a server that gives no scores: no kind is worth a rest
            return None, {}
        return None if label.unsure else label.value, seen

    def _date(self, body: str) -> tuple[date, str]:
        """Return the file's date, and by what: what it says, its name, or the day it came."""
        latest = self._came + AHEAD
        for by, text in (("text", body[:DATE_CHARACTERS]), ("name", self._name)):
            if (found := next(dates(text, latest), None)) is not None:
                return found, by
        return self._came, "arrival"

    def _places(self, listings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return the folders by their names, each with the folder it is in and its own name."""
        found: dict[str, str] = {}
        for target, listing in zip(self.params.targets, listings, strict=True):
            names = [str(entry.get("name", "")) for entry in listing.get("entries", ())]
            for name in names:
                folder = name.removesuffix("/")
                odd = folder == name or folder.startswith(".") or not folder.isprintable()
                if not odd and len(found) < PLACES_MAX:
                    found.setdefault(folder, f"{target.rstrip('/')}/{folder}")
        return found

    def _place(self, places: Mapping[str, str], says: str, text: str) -> str | None:
        """Return the folder that the file names, else the one that makes its text likeliest."""
        if not places:
            return None
        if (own := named(places, says)) is not None:
            return own
        heads = (PLACE_HEAD, NO_PLACE)
        try:
            (best,) = ranked(self.kit.score, tuple(places), [text], heads, CHARACTERS)
        except ModelMisconfigured:
            return None
        return best.interest

    def _proposed(self, day: date, kind: str | None, folder: str) -> str:
        """Return the name `2026-11-24 invoice scan.pdf`."""
        path = Path(self._name)
        suffix = path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", path.suffix) else ""
        stem = safe(path.stem if suffix else self._name)
        own = DATES.match(stem)
        if own and next(dates(own[0], day), None) == day:
            stem = stem[own.end() :].lstrip(" _-.")
        words = [day.isoformat(), kind or "", stem]
        if kind and named([kind], stem) is not None:
            del words[1]
        room = min(STEM_CHARACTERS, PATH_CHARACTERS - len(folder) - len(suffix) - 1)
        return " ".join(filter(None, words))[: max(room, len("2026-11-24"))].rstrip(" .") + suffix


def named(candidates: Iterable[str], says: str) -> str | None:
    """Return the one candidate that stands in a text as words, None where none or several do."""

    def plain(text: str) -> list[str]:
        return [word.casefold().removesuffix("s") for word in re.findall(r"[^\W_]+", text)]

    words = f" {' '.join(plain(says))} "
    found = [one for one in candidates if (own := plain(one)) and f" {' '.join(own)} " in words]
    return found[0] if len(found) == 1 else None


def dates(text: str, latest: date) -> Iterator[date]:
    """Give the dates in a text, in order. Of 3/4/2026 nobody knows the month: it is passed over."""
    for match in DATES.finditer(" ".join(text.split())):
        part = {key[0]: value for key, value in match.groupdict().items() if value is not None}
        day, month = part.get("d", ""), part.get("m", "")
        if "a" in part:
            first, second = int(part["a"]), int(part["b"])
            if first <= 12 and second <= 12 and first != second:
                continue
            day, month = sorted((part["a"], part["b"]), key=int, reverse=True)
        short = month[:3].lower()
        number = GERMAN.get(short) or (MONTHS.index(short) + 1 if short in MONTHS else 0)
        try:
            found = date(int(part["y"]), number or int(month), int(day))
        except ValueError:
            continue
        if date(FIRST_YEAR, 1, 1) <= found <= latest:
            yield found


def safe(text: str) -> str:
    """Return a part of a file's name: printable, no folder, nothing that hides or turns letters."""
    kept = (
        " " if c in NO_NAME or not c.isprintable() or unicodedata.category(c) == "Cf" else c
        for c in unicodedata.normalize("NFC", text)
    )
    return " ".join("".join(kept).split()).strip(" .")
