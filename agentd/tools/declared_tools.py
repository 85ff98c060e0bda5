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
from agentd.events import Result
from agentd.tools import files, http, later_tool, person, shell

PATH_CHARACTERS = 200


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


class HttpGet(Args):
    """Fetch a text page."""

    url: str = Field(min_length=8, max_length=300)


class RunCommand(Args):
    """Run a program that the permissions list."""

    program: str = Field(min_length=1, max_length=80)
    args: list[Annotated[str, Field(max_length=200)]] = Field(max_length=16)


class Later(Args):
    """Be told of `what` again, by an event of your own."""

    what: str = Field(min_length=1, max_length=WHAT_CHARACTERS_MAX)
    in_minutes: int | None = Field(None, ge=1, le=AHEAD_MAX // timedelta(minutes=1))
    at: str | None = Field(None, max_length=25)


class AskPerson(Args):
    """Ask the person who runs this agent."""

    question: str = Field(min_length=1, max_length=200)


@dataclass(frozen=True)
class Tool:
    """A typed decision's handler that any agent may use, by permission."""

    args: type[BaseModel]  # its bounds narrow the mask as well
    permission: Literal["read", "write", "net", "run"] | None
    # Called with a ToolCall and the checked arguments, in the process that `place` names: the
    # agent's hands, the fetcher, an MCP server's host, or the worker itself.
    run: Callable[..., Result]
    place: Literal["hands", "fetcher", "mcp", "head"] = "hands"
    idempotent: bool = True  # may run again after it was cut off in the middle
    # What it does: nothing, what a person can undo, or what nobody can take back (sends, deletes).
    effect: Literal["none", "change", "send"] = "send"
    untrusted: bool = True  # others may have written what it gives

    @property
    def name(self) -> str:
        """The BAML class."""
        return self.args.__name__


REGISTRY: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(ListFiles, "read", files.list_files, effect="none"),
        Tool(ReadFile, "read", files.read_file, effect="none"),
        Tool(SearchText, "read", files.search_text, effect="none"),
        Tool(WriteFile, "write", files.write_file, effect="change", untrusted=False),
        Tool(HttpGet, "net", http.http_get, "fetcher", effect="none"),
        Tool(RunCommand, "run", shell.run_command, idempotent=False),
        Tool(Later, None, later_tool.later, "head", effect="none", untrusted=False),
        Tool(AskPerson, None, person.ask_person, "head", effect="none", untrusted=False),
    )
}
