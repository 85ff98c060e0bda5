"""How replays went: a verdict each, of one or of many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.errors import AgentdError, ModelUnavailable, StorageError
from agentd.llm.endpoint import Endpoint
from agentd.replay.code import Workshop
from agentd.replay.live import LiveTurn
from agentd.replay.replay import Outcome
from agentd.replay.sources import Source


@dataclass(frozen=True)
class Verdict:
    """How one replay went: an outcome, or the error that kept it from being one.

    `live` are the turns of a model that was asked again.
    """

    name: str
    agent: str
    outcome: Outcome | None = None
    error: AgentdError | None = None
    live: Sequence[LiveTurn] = ()

    @property
    def word(self) -> str:
        """ "identical", "diverged" (or decided otherwise) or "failed"."""
        if self.outcome is None:
            return "failed"
        same = self.outcome.identical and all(turn.same for turn in self.live)
        return "identical" if same else "diverged"

    @property
    def where(self) -> str:
        """Where it diverged or why it failed, in a line; empty for an identical one."""
        if self.error is not None:
            return str(self.error).splitlines()[0]
        difference = self.outcome.difference if self.outcome else None
        if difference is not None:
            return f"turn {difference.turn}: {difference.what}"
        other = [turn.turn for turn in self.live if not turn.same]
        return f"decides otherwise at turn {', '.join(map(str, other))}" if other else ""

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        outcome = self.outcome
        difference = outcome.difference if outcome else None
        return {
            "name": self.name,
            "agent": self.agent,
            "result": self.word,
            "turns": outcome.turns if outcome else None,
            "given": outcome.given if outcome else None,
            "notes": list(outcome.notes) if outcome else [],
            "difference": difference.document() if difference else None,
            "live": [dict(vars(turn)) for turn in self.live],
            "error": str(self.error) if self.error else None,
        }


def replay_all(
    names: Iterable[tuple[str, Callable[[], Source]]],
    workshop: Workshop,
    *,
    endpoint: Endpoint | None = None,
    **options: Any,
) -> Iterator[Verdict]:
    """Replay one after the other; an error of one is its verdict, not the end.

    With `endpoint` its model is asked again at each turn.

    Raises:
        StorageError, ModelUnavailable: of what concerns all of them.
    """
    for name, load in names:
        agent = ""
        try:
            source = load()
            agent = source.recording.head.agent
            if endpoint is None:
                yield Verdict(name, agent, source.replay(workshop, **options))
            else:
                outcome, live = source.ask_again(workshop, endpoint, **options)
                yield Verdict(name, agent, outcome, live=live)
        except (StorageError, ModelUnavailable):
            raise
        except AgentdError as error:
            yield Verdict(name, agent, error=error)
