"""What passes between the HTTP side and the engine: calls, their progress, refusals."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from agentd.states import Priority

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "scored"]  # the last one: of a call that only scores
RANK = {Priority.PERSON: 0, Priority.EVENT: 1, Priority.SCHEDULE: 2}

# Tokens that a row's caches may hold while it scores several items at once: each has a copy of the
# head. For more than that only a single item of that length is read.
SCORED_TOGETHER = 1024

_numbers = itertools.count(1)


class Refused(Exception):
    """A request that cannot be served as it is. Becomes an HTTP error in OpenAI's shape."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_request", param: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s: int | None = None


class Full(Refused):
    """The queue is full, or the model is still loading: 503 with Retry-After."""

    def __init__(self, message: str, *, retry_after_s: int, code: str = "queue_full") -> None:
        super().__init__(message, status=503, code=code)
        self.retry_after_s = retry_after_s


class EngineBroken(Exception):
    """The engine cannot go on at all; the process must end and be started afresh."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The likeliest one at a temperature of 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # of free text: tokens that were there are less likely by it


@dataclass(frozen=True)
class Branch:
    """Where an answer chooses one of a field's labels, by its next token alone."""

    field: str  # as the request names it
    tokens: Mapping[str, int]  # by label; no two are equal
    offsets: Mapping[str, float]  # nats, by label: taken off its log-probability
    # By label: tokens whose log-probabilities count in the place of theirs; empty: their own do.
    words: Mapping[str, int]


class Mask(Protocol):
    """One answer's grammar, as the engine uses it: it alone decides which tokens are legal."""

    @property
    def branch(self) -> Branch | None:
        """The choice that the next token makes, if it makes one."""
        ...

    def forced(self) -> list[int]:
        """Take the tokens that must come next, without sampling; they are accepted by this."""
        ...

    @property
    def matcher(self) -> "LLMatcher | None":
        """Return what computes the bits that `narrow` is given; None: `narrow` alone writes them.

        Those of several masks are computed together.
        """
        ...

    def narrow(self, bits: "NDArray[np.uint8]") -> None:
        """Check the matcher's bits, and forbid what is not wanted of them.

        One per token of the vocabulary, least significant bit first.
        """
        ...

    def allowed(self) -> bytes:
        """Return these bits, computed for this mask alone."""
        ...

    def accept(self, token: int) -> None:
        """Step over a sampled token."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        ...

    def close(self) -> list[int]:
        """Return the tokens that complete the answer in the shortest way found, or []."""
        ...


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was where it was taken: 0.0 where nothing else was legal."""

    token: int
    logprob: float  # natural logarithm, of what was sampled from: after the mask and offsets
    likeliest: tuple[tuple[int, float], ...] = ()  # tokens and the same, the likeliest first


@dataclass
class Scoring:
    """What to score: items behind heads, all as tokens. No head is empty, and no item."""

    heads: Sequence[Sequence[int]]
    items: Sequence[Sequence[Sequence[int]]]  # by head
    # By head, as far as they are done: the items' log-probabilities, natural logarithms.
    scores: list[list[float]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Return how many scores there are."""
        return sum(map(len, self.scores))

    @property
    def tokens(self) -> int:
        """Return how many tokens are read for it."""
        return sum(map(len, self.heads)) + sum(len(item) for each in self.items for item in each)

    @property
    def longest(self) -> int:
        """Return the most tokens that a head and an item have together."""
        pairs = zip(self.heads, self.items, strict=True)
        return max(len(head) + max(map(len, items)) for head, items in pairs)


@dataclass
class Call:
    """One request for a completion, from its admission to the queue until its end.

    `emit` is called from the engine's thread with each piece; it must not block or raise.
    """

    prompt: Sequence[int]
    emit: Callable[["Piece"], None]
    agent: str = ""
    guest: bool = False  # of another program than an agent's worker
    session: str | None = None
    priority: Priority = Priority.EVENT
    weight: int = 5  # 1 is served first within its class
    max_tokens: int = 512
    deadline_s: float = 120.0  # from admission to a slot, not from queueing
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    mask: Mask | None = None
    top_logprobs: int | None = None  # how many to give beside each token's own; None: none at all
    scoring: Scoring | None = None  # then `prompt` is empty, and no answer is generated
    continues: bool = True  # a later prompt may go on behind the answer, as conversations do
    # Positions in the prompt where a later one may go on: ends of its fixed part and of events.
    checkpoints: tuple[int, ...] = ()
    cancelled: bool = False  # set by the HTTP side, read by the engine's thread
    number: int = field(default_factory=lambda: next(_numbers))
    queued_at: float = 0.0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    cached_tokens: int = 0
    completion_tokens: int = 0
    # By field, as the request names it, and label: log-probabilities without offsets.
    labels: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Return its class, 0 first. What another program says of itself lifts it over no event."""
        rank = RANK[self.priority]
        return max(rank, RANK[Priority.EVENT]) if self.guest else rank

    @property
    def repeats_less(self) -> bool:
        """Whether its penalty counts: in JSON it would fall on quotes, keys and labels."""
        return self.mask is None and self.repetition_penalty != 1

    @property
    def prompt_tokens(self) -> int:
        """Return how many tokens are read for it."""
        return self.scoring.tokens if self.scoring else len(self.prompt)

    @property
    def length(self) -> int:
        """Return how many tokens a row's caches may come to hold for it."""
        if self.scoring:
            return max(self.scoring.longest, SCORED_TOGETHER)
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class Piece:
    """A piece of a call's progress. The last one has `finish` or `error`."""

    text: str = ""
    admitted: bool = False  # the first piece: a slot was given
    finish: FinishReason | None = None
    error: Refused | None = None
    cancelled: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()  # where they are wanted; text may come later

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.error is not None or self.cancelled


@dataclass(frozen=True)
class Advance:
    """What one engine step did for one call."""

    call: Call
    tokens: tuple[int, ...] = ()  # generated, forced ones included; none while prefilling
    finish: FinishReason | None = None
    error: Exception | None = None  # this call failed, and has lost its slot
    logprobs: tuple[TokenLogprob, ...] = ()  # of each token, where they are wanted

    @property
    def last(self) -> bool:
        """Whether the call has lost its slot."""
        return self.finish is not None or self.error is not None
