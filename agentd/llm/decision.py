"""What the loop needs of a model: one typed decision at a time. No BAML and no HTTP here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentd.agent import Choice, Scores
from agentd.states import Priority

__all__ = [
    "DONE",
    "LLM",
    "Ask",
    "Candidates",
    "Choice",
    "Decision",
    "Message",
    "Terms",
    "Usage",
    "with_log",
]

Message = dict[str, str]  # {"role": ..., "content": ...}
# What alone may stand in a text field in this session, by "Class.field".
Candidates = Mapping[str, Sequence[str]]
DONE = "Done"  # the class of every union that ends the loop


@dataclass(frozen=True)
class Usage:
    """What a call cost."""

    duration_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt's
    completion_tokens: int = 0


@dataclass(frozen=True)
class Decision:
    """One typed decision of the model, and what it cost."""

    name: str  # the BAML class, e.g. "ReadFile"; "Done" ends the session
    args: Mapping[str, Any]  # its fields as JSON, without "tool"
    value: Any  # the generated class's instance; `Choice` for an agent made of configuration alone
    raw: str  # the answer's text, exactly, but for the thoughts of a server that masks nothing
    finish_reason: str = "stop"  # "length": closed off; only a Done may be acted on
    usage: Usage = Usage()
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # see `calibration`
    planned: bool = False  # by the agent itself; no model was asked
    # Of the whole prompt, log included, where the model server's own count can be relied on.
    context_tokens: int | None = None

    @classmethod
    def plan(cls, name: str, args: Mapping[str, Any]) -> "Decision":
        """Return a decision that an agent planned."""
        return cls(name, dict(args), Choice(name, dict(args)), "", planned=True)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms the model is asked, and for whom."""

    deadline_s: float  # from the server's admission on
    priority: Priority
    session: int
    progress: Callable[[], None]  # called while queued, and for every piece of the answer


@dataclass(frozen=True, kw_only=True)
class Ask(Terms):
    """A question to the model: which decision comes after this log?"""

    log: str
    allowed: frozenset[str] | None = None  # narrows the union for this call alone
    max_tokens: int  # of the answer
    # What to take off each label, in nats, by "Class.field". None: what the LLM thinks right.
    offsets: Mapping[str, Mapping[str, float]] | None = None
    candidates: Candidates = field(default_factory=dict)

    def among(self, names: frozenset[str]) -> frozenset[str]:
        """Return which classes of a union may be decided."""
        return names if self.allowed is None else names & self.allowed


class LLM(Protocol):
    """What the loop needs of a model. `agentd.testing.ScriptedLLM` is another one."""

    @property
    def names(self) -> frozenset[str]:
        """The classes of the union."""
        ...

    def window(self) -> int:
        """Return the tokens of the model's context window."""
        ...

    def fixed_tokens(self) -> int:
        """Return the tokens of the prompt without the log, chat template included."""
        ...

    def count(self, text: str, within: int = 0) -> int:
        """Return the tokens of a piece of the log.

        Where they are surely no more than `within`, this may be more than they are, up to that, for
        as long as no decision has told the prompt's `context_tokens`.
        """
        ...

    def prompt(self, log: str) -> list[Message]:
        """Return the exact messages of a call."""
        ...

    def decide(self, ask: Ask) -> Decision:
        """Ask for one decision.

        Raises:
            ModelUnavailable: the server is down, loading or full; costs no attempt.
            CallDeadline: admitted, but not finished in time.
            ModelError: refused (4xx), or malformed after the re-ask.
            Stopped: `close` was called meanwhile.
        """
        ...

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Return how likely each item is after each head. `terms.progress` is not called.

        Raises:
            ModelUnavailable, CallDeadline, ModelError, Stopped: as `decide`.
        """
        ...

    def restore(self, raw: str) -> Decision:
        """Return the decision that an earlier attempt recorded, from the answer's exact text."""
        ...

    def close(self) -> None:
        """End a running call from another thread, and refuse new ones. Never raises."""
        ...


def with_log(messages: Sequence[Message], log: str) -> list[Message]:
    """Return a call's messages: those of the fixed prompt, with the log at the last one's end."""
    *before, last = messages
    return [*before, {**last, "content": last["content"] + log}]
