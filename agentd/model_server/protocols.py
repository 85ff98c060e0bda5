"""What a model's language and its engine offer to the rest of the server."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from agentd.model_server.calls import Advance, Call, Mask, Sampling
from agentd.model_server.tool_calls import Form, OfferedTool, ToolChoice

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
    vocabulary: int  # tokens, each of which has a bit in a mask
    end_tokens: AbstractSet[int]  # each of them ends an answer
    form: Form  # how the model writes tool calls
    sampling: Sampling  # where a request does not say

    def encode(self, text: str) -> list[int]:
        """Tokenise plain text: what looks like a special token is text."""
        ...

    def encode_text(self, text: str, *, limit: int | None = None) -> Prompt:
        """Tokenise plain text that the answer goes on from.

        Raises:
            Refused: it has clearly more than `limit` tokens.
        """
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

        A special token has none, or if tool calls are written with it, those of its mark.
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

    def labelled(self, mask: Mask, schema: object, labels: Labels, *, words: bool = False) -> Mask:
        """Return a fresh mask of an answer of `schema` that chooses labels by one token each.

        `words`: how likely they are as words of a text counts, and not as JSON.

        Raises:
            Refused: the labels are not those of the schema, or cannot be told apart.
        """
        ...


class Engine(Protocol):
    """A loaded model that advances admitted calls step by step. Used by one thread only."""

    @property
    def slots(self) -> int:
        """How many calls can be advanced together."""
        ...

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
