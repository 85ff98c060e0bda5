"""The shared tools as they are declared: their arguments, what they need, and where they run.

Each is a BAML class of the same name and fields in baml_src/tools.baml. Only the process that
decides imports this: what carries a call out knows nothing of Pydantic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentd.bus.later import AHEAD_MAX, WHAT_CHARACTERS_MAX
from agentd.config.agent import SUBSCRIPTION
from agentd.events import Result
from agentd.tools import (
    calendar,
    feed,
    files,
    find_notes,
    http,
    later_tool,
    log_file,
    macos_apps,
    mail,
    move,
    open_tasks,
    page,
    pdf,
    person,
    query,
    recall,
    shell,
)

PATH_CHARACTERS = 200
URL_CHARACTERS = 300
Permission = Literal["read", "write", "net", "run", "apps"]


class Args(BaseModel):
    """Base of the tools' arguments: unknown keys are errors. The mask enforces the bounds too."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ListFiles(Args):
    """List a folder."""

    path: str = Field(max_length=PATH_CHARACTERS)


class ReadFile(Args):
    """Read a text file from line `start` on; 1 is the first."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    start: int | None = Field(None, ge=1, le=1_000_000)


class SearchText(Args):
    """Find the lines that contain `text`, in a file or below a folder."""

    path: str = Field(max_length=PATH_CHARACTERS)
    text: str = Field(min_length=1, max_length=80)


class WriteFile(Args):
    """Write a whole text file, new or in the place of the old one."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    text: str = Field(max_length=8_000)


class AppendNote(Args):
    """Add a line or a paragraph to the end of a text file, new or there."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    text: str = Field(min_length=1, max_length=8_000)


class MoveFile(Args):
    """Move a file to the path `to`, or into that folder; nothing is overwritten."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    to: str = Field(min_length=1, max_length=PATH_CHARACTERS)


class HttpGet(Args):
    """Fetch a text page."""

    url: str = Field(min_length=8, max_length=URL_CHARACTERS)


class ReadPage(Args):
    """Read a web page from character `start` on: title, date, text."""

    url: str = Field(min_length=8, max_length=URL_CHARACTERS)
    start: int | None = Field(None, ge=0, le=10_000_000)


class ReadFeed(Args):
    """Read what is new in a feed since last time."""

    url: str = Field(min_length=8, max_length=URL_CHARACTERS)


class ReadCalendar(Args):
    """Read the events of today and the days after it."""

    source: str = Field(min_length=1, max_length=URL_CHARACTERS)
    days: int | None = Field(None, ge=1, le=62)


class ReadPdf(Args):
    """Read pages of a PDF file: "3", "2-5" or "4-"."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    pages: str | None = Field(None, max_length=13)


class ReadMail(Args):
    """Read the mail that came since the last time: of an account, or of a mailbox at a path."""

    source: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    most: int | None = Field(None, ge=1, le=mail.MOST)


class ReadLog(Args):
    """Read the errors that a log got since last time."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)


class ReadTasks(Args):
    """Read the open tasks and questions in notes."""

    path: str = Field(max_length=PATH_CHARACTERS)


class RunShortcut(Args):
    """Run a shortcut of this Mac, on a text if one is given."""

    name: str = Field(min_length=1, max_length=100)
    input: str | None = Field(None, max_length=8_000)


class AddReminder(Args):
    """Add a reminder; `due` as 2026-12-24T09:00."""

    title: str = Field(min_length=1, max_length=200)
    list: str | None = Field(None, max_length=100)
    due: str | None = Field(None, max_length=40)


class AddNote(Args):
    """Add a note to the app Notes."""

    title: str = Field(min_length=1, max_length=200)
    text: str = Field(max_length=8_000)


class Query(Args):
    """Ask a SQLite file by one SELECT."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    sql: str = Field(min_length=1, max_length=query.SQL_CHARACTERS)


class RunCommand(Args):
    """Run a program that the permissions list."""

    program: str = Field(min_length=1, max_length=80)
    args: list[Annotated[str, Field(max_length=200)]] = Field(max_length=16)


class Later(Args):
    """Be told of `what` again, by an event of your own."""

    what: str = Field(min_length=1, max_length=WHAT_CHARACTERS_MAX)
    in_minutes: int | None = Field(None, ge=1, le=AHEAD_MAX // timedelta(minutes=1))
    at: str | None = Field(None, max_length=25)


class Remember(Args):
    """Remember a text under a key for later sessions; an empty one forgets it."""

    key: str = Field(min_length=1, max_length=recall.KEY_CHARACTERS)
    value: str = Field(max_length=recall.VALUE_CHARACTERS)


class Recall(Args):
    """Give what was remembered in earlier sessions, all of it or what holds these words."""

    words: str | None = Field(None, max_length=recall.WORDS_CHARACTERS)


class SearchEvents(Args):
    """Find earlier events and results that hold all of these words."""

    words: str = Field(min_length=1, max_length=recall.WORDS_CHARACTERS)


class ReadResults(Args):
    """Read what other agents found since last time: results of these types."""

    types: list[Annotated[str, Field(pattern=f"^{SUBSCRIPTION.pattern}$", max_length=60)]] = Field(
        min_length=1, max_length=16
    )


class FindEvents(Args):
    """Find what goes best with a question in what others published, of these types."""

    words: str = Field(min_length=1, max_length=recall.QUESTION_CHARACTERS)
    types: list[
        Annotated[str, Field(pattern=rf"^(?:\*|{SUBSCRIPTION.pattern})$", max_length=60)]
    ] = Field(min_length=1, max_length=16)


class FindNotes(Args):
    """Find what goes best with a question in notes."""

    path: str = Field(max_length=PATH_CHARACTERS)
    words: str = Field(min_length=1, max_length=recall.QUESTION_CHARACTERS)


class AskPerson(Args):
    """Ask the person who runs this agent."""

    question: str = Field(min_length=1, max_length=200)


@dataclass(frozen=True)
class Tool:
    """A typed decision's handler that any agent may use, by permission."""

    args: type[BaseModel]  # its bounds narrow the mask as well
    permission: Permission | tuple[Permission, ...] | None  # of several, one is enough
    # Called with a ToolCall and the checked arguments, in the process that `place` names: the
    # agent's hands, the fetcher, an MCP server's host, or the worker itself.
    run: Callable[..., Result]
    place: Literal["hands", "fetcher", "mcp", "head"] = "hands"
    idempotent: bool = True  # may run again after it was cut off in the middle
    # What it does: nothing, what a person can undo, or what nobody can take back (sends, deletes).
    effect: Literal["none", "change", "send"] = "send"
    untrusted: bool = True  # others may have written what it gives
    # Only an agent's plan may call it: what it reads is for a person to say, and no model.
    by_plan: bool = False
    # Its fields that say what it changes: where all lie in the agent's own folder, nobody is asked.
    places: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[Permission, ...]:
        """The permissions of which one has to list something; empty where none has to."""
        if isinstance(self.permission, str):
            return (self.permission,)
        return self.permission or ()

    @property
    def name(self) -> str:
        """The BAML class."""
        return self.args.__name__


def _writing(
    args: type[BaseModel], run: Callable[..., Result], *places: str, idempotent: bool = True
) -> Tool:
    return Tool(
        args,
        "write",
        run,
        idempotent=idempotent,
        effect="change",
        untrusted=False,
        places=places,
    )


REGISTRY: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(ListFiles, "read", files.list_files, effect="none"),
        Tool(ReadFile, "read", files.read_file, effect="none"),
        Tool(SearchText, "read", files.search_text, effect="none"),
        _writing(WriteFile, files.write_file, "path"),
        _writing(AppendNote, files.append_note, "path", idempotent=False),
        _writing(MoveFile, move.move_file, "path", "to", idempotent=False),
        Tool(HttpGet, "net", http.http_get, "fetcher", effect="none"),
        Tool(ReadPage, "net", page.read_page, "head", effect="none"),
        Tool(ReadFeed, "net", feed.read_feed, "head", effect="none"),
        Tool(ReadCalendar, ("read", "net", "apps"), calendar.read_calendar, "head", effect="none"),
        Tool(ReadPdf, "read", pdf.read_pdf, effect="none"),
        Tool(ReadMail, ("net", "read"), mail.read_mail, "head", effect="none"),
        Tool(ReadLog, "read", log_file.read_log, "head", effect="none"),
        Tool(ReadTasks, "read", open_tasks.read_tasks, effect="none"),
        Tool(Query, "read", query.query, effect="none"),
        Tool(RunCommand, "run", shell.run_command, idempotent=False),
        Tool(RunShortcut, "apps", macos_apps.run_shortcut, idempotent=False),
        Tool(AddReminder, "apps", macos_apps.add_reminder, idempotent=False, effect="change"),
        Tool(AddNote, "apps", macos_apps.add_note, idempotent=False, effect="change"),
        Tool(Later, None, later_tool.later, "head", effect="none", untrusted=False),
        Tool(Remember, None, recall.remember, "head", effect="none", untrusted=False),
        Tool(Recall, None, recall.recall, "head", effect="none"),
        Tool(SearchEvents, None, recall.search_events, "head", effect="none"),
        Tool(ReadResults, None, recall.read_results, "head", effect="none", by_plan=True),
        Tool(FindEvents, None, recall.find_events, "head", effect="none", by_plan=True),
        Tool(FindNotes, "read", find_notes.find_notes, effect="none"),
        Tool(AskPerson, None, person.ask_person, "head", effect="none", untrusted=False),
    )
}
