"""What passes between the HTTP side and the engine: calls, their progress, refusals."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from agentd.model_server.tool_calls import Form, OfferedTool, ToolChoice
from agentd.states import Priority

FinishReason = Literal["stop", "length", "scored"]  # the last one: of a call that only scores

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
class Branch:
    """Where an answer chooses one of a field's labels, by its next token alone."""

    field: str  # as the request names it
    tokens: Mapping[str, int]  # by label; no two are equal
    offsets: Mapping[str, float]  # nats, by label: taken off its log-probability


class Mask(Protocol):
    """One answer's grammar, as the engine uses it: it alone decides which tokens are legal."""

    @property
    def branch(self) -> Branch | None:
        """The choice that the next token makes, if it makes one."""
        ...

    def forced(self) -> list[int]:
        """Take the tokens that must come next, without sampling; they are accepted by this."""
        ...

    def allowed(self) -> bytes:
        """Return one bit per token of the vocabulary, least significant bit first."""
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
    session: str | None = None
    priority: Priority = Priority.EVENT
    weight: int = 5  # 1 is served first within its class
    max_tokens: int = 512
    deadline_s: float = 120.0  # from admission to a slot, not from queueing
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
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


Labels = Mapping[str, Mapping[str, float]]  # by field and label: offsets in nats
Message = dict[str, Any]  # role and content; where they apply tool_calls, tool_call_id and name


@dataclass(frozen=True)
class Prompt:
    """A tokenised conversation."""

    tokens: list[int]
    # Where a later prompt may go on: the ends of the messages and of a log's events.
    checkpoints: tuple[int, ...]


class Language(Protocol):
    """A model's tokenizer, chat template and grammars. Usable from any thread."""

    window: int  # tokens of prompt and answer together
    end_tokens: AbstractSet[int]  # each of them ends an answer
    form: Form  # how the model writes tool calls

    def encode(self, text: str) -> list[int]:
        """Tokenise plain text: what looks like a special token is text."""
        ...

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[OfferedTool] = (),
        *,
        limit: int | None = None,
    ) -> "Prompt":
        """Tokenise a conversation through the chat template, up to where the answer begins.

        Raises:
            Refused: the template does not take these messages, or they have clearly more than
                `limit` tokens.
        """
        ...

    def encode_pairs(
        self, head: str, items: Sequence[str], *, limit: int
    ) -> tuple[list[int], list[list[int]]]:
        """Tokenise texts that begin with `head` and go on with an item, without template.

        The head begins with what the tokenizer itself puts before a text: nothing, or BOS. An empty
        one is BOS, or where there is none an end token. At the border an item's tokens are those
        of the whole text, where the head has the same ones in it, else its own.

        Raises:
            Refused: a text has clearly more than `limit` tokens.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of generated tokens.

        A special token has none, or if tool calls are written with it, those of a noncharacter.
        """
        ...

    def mask(self, schema: object) -> Mask:
        """Return a fresh mask for one answer.

        Raises:
            Refused: the schema cannot be honoured; names the keyword's path.
        """
        ...

    def call_mask(
        self, tools: Sequence[OfferedTool], choice: ToolChoice, schema: object | None = None
    ) -> Mask:
        """Return a fresh mask for an answer that is text, or fits `schema`, or calls a tool.

        Raises:
            Refused: a schema cannot be honoured.
        """
        ...

    def labelled(self, mask: Mask, schema: object, labels: Labels) -> Mask:
        """Return a fresh mask of an answer of `schema` that chooses labels by one token each.

        Raises:
            Refused: the labels are not those of the schema, or cannot be told apart.
        """
        ...


class Engine(Protocol):
    """A loaded model that advances admitted calls step by step. Used by one thread only."""

    def fits(self, call: Call) -> bool:
        """Whether there is a slot, and memory, for this call now.

        Raises:
            Refused: there will never be.
        """
        ...

    def admit(self, call: Call) -> None:
        """Give a call a slot."""
        ...

    def step(self) -> list[Advance]:
        """Advance the admitted calls: those that decode by a token, one other by some prefill.

        A call that finished or failed has lost its slot. When it raises, no state can be relied on.
        """
        ...

    def remove(self, call: Call) -> None:
        """Take a call's slot away, in whatever phase it is."""
        ...

    def recover(self, error: Exception) -> list[Advance]:
        """Begin the admitted calls again from their tokens, after `step` raised.

        Calls that were in too many failed steps are given up with `error`.
        """
        ...

    def cache_bytes(self) -> int:
        """Return the bytes that prompt caches take."""
        ...

    def counters(self) -> Mapping[str, float]:
        """Return more counters (`..._total`) and gauges for /metrics. Called from any thread."""
        ...

    def save(self) -> None:
        """Write down what makes the next start faster.

        Raises:
            OSError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Let go of all memory. The engine is not used any more."""
        ...
