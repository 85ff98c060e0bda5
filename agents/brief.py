"""One page each morning: the day's calendar, open tasks, and what other agents found.

Code reads all of it and writes the page. No model is asked, unless `words` wants a sentence on top.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agentd.agent import Agent, PlannedCall, Result, or_error
from agentd.config.agent import SUBSCRIPTION
from agentd.events import Event, NewEvent
from agentd.llm.decision import DONE
from agentd.paths import expanded
from agentd.task_agent.written_result import inert
from agentd.tools.calendar import APP

TASK = "task"  # of what is open in notes; the other kind are questions
SOURCES_MAX = 4  # of a kind
SENTENCE_CHARACTERS = 160
LINES_MAX = {"calendar": 30, "tasks": 15, "results": 5}  # on the page; of results for each agent
LINE_CHARACTERS = 160
FOUND = ("mail.*", "feed.*", "notes.*", "log.*", "inbox.*", "review.done", "digest.*")

Types = Annotated[str, StringConstraints(pattern=f"^{SUBSCRIPTION.pattern}$", max_length=60)]


class BriefParams(BaseModel):
    """What stands on the page."""

    model_config = ConfigDict(extra="forbid")

    calendar: list[str] = Field(
        [], max_length=SOURCES_MAX, description="`.ics` files or URLs; on a Mac also its app."
    )
    days: int = Field(1, ge=1, le=14, description="Days of the calendar, today included.")
    notes: list[str] = Field(
        [], max_length=SOURCES_MAX, description='Folders or files with open tasks: "- [ ]", TODO.'
    )
    results: list[Types] = Field(
        list(FOUND), max_length=16, description="Types of events; of other agents' results."
    )
    words: bool = Field(False, description="A sentence on top, by the model; of 3B at least.")


class SentenceArgs(BaseModel):
    """Bounds of the model's sentence; the mask enforces them."""

    sentence: str = Field(min_length=1, max_length=SENTENCE_CHARACTERS)


class BriefWritten(BaseModel):
    """A result: the page, and how much stands on it."""

    title: str = Field(min_length=1, max_length=200)
    text: str = Field(max_length=20_000)
    appointments: int
    tasks: int
    results: int


class Brief(Agent[BriefParams]):
    """Done, planned; with `words` it is the model's, and has a sentence."""

    Params = BriefParams
    function = "Brief"
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {"brief.written": BriefWritten}
    arguments: ClassVar[Mapping[str, type[BaseModel]]] = {"Done": SentenceArgs}

    @classmethod
    def plans(cls, params: BriefParams) -> tuple[str, ...]:
        """Return what reads the sources that it has."""
        tools = {
            "ReadCalendar": params.calendar,
            "ReadTasks": params.notes,
            "ReadResults": params.results,
        }
        return tuple(tool for tool, sources in tools.items() if sources)

    @classmethod
    def folders(cls, params: BriefParams) -> Iterable[Path]:
        """Return the calendars and notes that are files."""
        files = [one for one in params.calendar if one != APP and "://" not in one]
        return map(expanded, (*files, *params.notes))

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Plan what is read."""
        self._today = event.created_at.astimezone().date()
        self._steps = list(self._reading())

    def opening(self, event: Event) -> Result:
        """Return the day: what woke it makes no difference."""
        return Result({"today": f"{self._today:%A} {self._today}"})

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | None:
        """Read; then the end, before which the model may say a sentence."""
        if len(results) < len(self._steps):
            return self._steps[len(results)]
        wordless = not self.params.words or self._found(results).empty
        return PlannedCall(DONE) if wordless else None

    def dispatch(self, decision: Any) -> Result:
        """Read a source. One that cannot be read is named on the page."""
        return or_error(partial(super().dispatch, decision))

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Publish the page; nothing where there is nothing at all."""
        found = self._found(results)
        if found.empty:
            return Result({"nothing": True})
        sentence = "" if self.forced else getattr(done, "sentence", "")
        page = found.page(self._today, sentence).model_dump()
        counts = {key: page[key] for key in ("appointments", "tasks", "results")}
        return Result(counts, publish=[NewEvent("brief.written", page)])

    def _reading(self) -> Iterator[PlannedCall]:
        for source in self.params.calendar:
            yield PlannedCall("ReadCalendar", {"source": source, "days": self.params.days})
        for path in self.params.notes:
            yield PlannedCall("ReadTasks", {"path": path})
        if self.params.results:
            yield PlannedCall("ReadResults", {"types": self.params.results})

    def _found(self, results: Sequence[Mapping[str, Any]]) -> "Findings":
        found = Findings()
        for step, result in zip(self._steps, results, strict=False):
            if "error" in result:
                found.failed.append(str(result["error"]))
            found.appointments += result.get("events", ())
            found.tasks += (one for one in result.get("tasks", ()) if one.get("kind") == TASK)
            found.results += result.get("results", ())
            if result.get("more"):
                found.more.add(step.name)
        return found


class Findings:
    """What was read, source by source."""

    def __init__(self) -> None:
        self.appointments: list[Mapping[str, Any]] = []
        self.tasks: list[Mapping[str, Any]] = []
        self.results: list[Mapping[str, Any]] = []
        self.failed: list[str] = []  # why a source could not be read
        self.more: set[str] = set()  # the tools that had more to give

    @property
    def empty(self) -> bool:
        """Whether there is nothing that anybody would read."""
        return not (self.appointments or self.tasks or self.results or self.failed)

    def page(self, today: date, sentence: str) -> BriefWritten:
        """Return the page: what others wrote is no markup in it."""
        sections = [inert(sentence, SENTENCE_CHARACTERS)] if sentence else []
        sections += [
            _section("Calendar", [*self._calendar(today)], LINES_MAX["calendar"]),
            _section("Open tasks", [*map(_task, self.tasks)], LINES_MAX["tasks"]),
            _section("Found", [*self._by_agent()], 50),
            _section("Could not be read", [inert(why, LINE_CHARACTERS) for why in self.failed], 12),
        ]
        counts = {
            "appointment": (len(self.appointments), "ReadCalendar"),
            "open task": (len(self.tasks), "ReadTasks"),
            "result": (len(self.results), "ReadResults"),
        }
        told = [
            f"{count}{' or more' * (tool in self.more)} {what}{'s' * (count != 1)}"
            for what, (count, tool) in counts.items()
            if count
        ]
        return BriefWritten(
            title=f"{today:%A} {today}: {', '.join(told) or 'something could not be read'}",
            text="\n\n".join(filter(None, sections)),
            appointments=len(self.appointments),
            tasks=len(self.tasks),
            results=len(self.results),
        )

    def _calendar(self, today: date) -> Iterator[str]:
        for one in sorted(self.appointments, key=lambda one: str(one.get("start"))):
            day, _, time = str(one.get("start", "")).partition(" ")
            when = time or "all day"
            when = when if day == today.isoformat() else f"{day} {time}".strip()
            where = f", {one['place']}" if one.get("place") else ""
            yield f"{when} {inert(str(one.get('title', '')) + where, LINE_CHARACTERS)}"

    def _by_agent(self) -> Iterator[str]:
        """Give each agent's newest titles, under how many results and rows it has."""
        for agent in dict.fromkeys(str(one.get("agent")) for one in self.results):
            own = [one for one in self.results if one.get("agent") == agent]
            rows = sum(int(one.get("rows", 0)) for one in own)
            counted = f" ({len(own)} results, {rows} rows)" if len(own) > 1 and rows else ""
            yield f"**{inert(agent, 60)}**{counted}: {_title(own[-1])}"
            for one in own[-2 : -LINES_MAX["results"] - 1 : -1]:
                yield f"  {_title(one)}"


def _title(result: Mapping[str, Any]) -> str:
    return inert(str(result.get("title", "")), LINE_CHARACTERS)


def _task(task: Mapping[str, Any]) -> str:
    """Return a task's text and where it stands."""
    return f"{inert(str(task.get('text', '')), LINE_CHARACTERS)} ({inert(str(task['file']), 60)})"


def _section(heading: str, lines: Sequence[str], most: int) -> str:
    if not lines:
        return ""
    listed = [f"* {line}" if not line.startswith("  ") else f"  * {line[2:]}" for line in lines]
    left = len(lines) - most
    rest = [f"* and {left} more"] if left > 0 else []
    return "\n".join([f"## {heading}", "", *listed[:most], *rest])
