"""What a tool in the worker knows of the session that calls it, and of its agent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentd.errors import ToolError

if TYPE_CHECKING:
    from agentd.agent import Memory
    from agentd.bus.event_rows import NewResults, NewsReader
    from agentd.bus.search import Finder, FoundEvent, Passage, PassageFinder


def _no_events(words: str, limit: int, check: Callable[[], None]) -> "Sequence[FoundEvent]":
    raise ToolError("there are no events here")


def _no_passages(
    question: str, types: Sequence[str], limit: int, check: Callable[[], None]
) -> "Sequence[Passage]":
    raise ToolError("there are no events here")


def _no_news(types: Sequence[str], after: int, since: str, limit: int) -> "NewResults":
    raise ToolError("there are no results here")


@dataclass(frozen=True)
class SessionView:
    """One session's, given to its tools at its start. Outside of one nothing is known."""

    # What the agent remembers, as of the start of the session.
    memory: "Memory" = field(default_factory=dict[str, Any])
    # Whether nobody else's words stand in what the session has read so far.
    trusted: Callable[[], bool] = lambda: False
    # How many events of its own the agent has set, those of this session included.
    open_later: Callable[[], int] = lambda: 0
    # events(words, limit, check): the newest events with these words that the agent may read.
    # Raises what `check` does.
    events: "Finder" = _no_events
    # passages(question, types, limit, check): what goes best with a question in others' events.
    # Raises what `check` does.
    passages: "PassageFinder" = _no_passages
    # news(types, after, since, limit): the newest results of other agents.
    news: "NewsReader" = _no_news
