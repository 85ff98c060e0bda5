"""What the server needs of an engine. `mlx_engine.MlxEngine` is the real one.

Tests use `agentd.testing_model.ScriptedEngine`, which needs no MLX.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from agentd.model_server.calls import Advance, Call, Mask

Message = dict[str, str]  # role and content


class Language(Protocol):
    """A model's tokenizer, chat template and grammars. Usable from any thread."""

    window: int  # tokens of prompt and answer together
    end_tokens: AbstractSet[int]  # each of them ends an answer

    def encode(self, text: str) -> list[int]:
        """Tokenise plain text: what looks like a special token is text."""
        ...

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokenise a conversation through the chat template, up to where the answer begins.

        Raises:
            Refused: the template does not take these messages.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of generated tokens; special tokens have none."""
        ...

    def mask(self, schema: object) -> Mask:
        """Return a fresh mask for one answer.

        Raises:
            Refused: the schema cannot be honoured; names the keyword's path.
        """
        ...


class Engine(Protocol):
    """A loaded model that advances admitted calls step by step. Used by one thread only."""

    slots: int  # calls that may be admitted at a time

    def admit(self, call: Call) -> None:
        """Give a call a slot."""
        ...

    def step(self) -> list[Advance]:
        """Advance every admitted call by one short piece of prefill or one decoding step.

        A finished call has lost its slot. When it raises, no call's state can be relied on.
        """
        ...

    def remove(self, call: Call) -> None:
        """Take a call's slot away, in whatever phase it is."""
        ...

    def reset(self) -> None:
        """Forget all admitted calls and their state, after `step` raised."""
        ...

    def cache_bytes(self) -> int:
        """Return the bytes that prompt caches take."""
        ...
