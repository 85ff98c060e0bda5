"""One answer's place in its grammar: what may follow, what must, and how it is closed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from agentd.json_schema.bounds import Schema
from agentd.model_server.calls import Branch, Refused
from agentd.model_server.grammar.answer_ends import HOLE, Endings
from agentd.model_server.tool_calls import CallReader, Form, decoder

NUMBER_TOKENS_MAX = 24
CLOSING_TOKENS_MAX = 2000  # of a schema's shortest answer; one that needs more is refused
CUT_TOKENS_MAX = 20_000  # to close an answer that was cut: it may have begun something longer

# Which character leads to the end soonest, outside and inside of strings. What opens something
# comes last. Between digits and letters: null, true, false are each forced after one letter.
CLOSERS = '}],:0123456789ntf"abcdefghijklmopqrsuvwxyz-. _{['
STRING_CLOSERS = '"a@.:/-0bcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ123456789 _,'

STEPS_TRIED = 8  # characters of a text, after which only the grammar is asked for its end
SAME_MAX = 8  # tokens of a string before its closing tries one character after another


@dataclass
class Compiled:
    """A grammar, to be copied for each answer."""

    matcher: LLMatcher
    string_tokens: int  # that one string may take
    schema: Schema = field(default_factory=dict)  # where it is one schema's
    # How to end an answer: of a call's arguments by the tool's name, of an answer in JSON by "".
    endings: Mapping[str, Endings] = field(default_factory=dict)
    options: Schema = field(default_factory=dict)  # the compiler's, that the schema needs
    text: NDArray[np.uint8] | None = None  # the mask of free text, once one was needed


class AnswerMask:
    """The grammar of one answer at its present place. Implements `calls.Mask`.

    `single` are the tokens of single characters, `bytes_of` gives a token's bytes, `tokens_of`
    the tokens of a text.
    """

    def __init__(
        self,
        compiled: Compiled,
        single: Mapping[str, int],
        bytes_of: Callable[[int], bytes],
        tokens_of: Callable[[str], list[int]],
    ) -> None:
        self._matcher = compiled.matcher.deep_copy()
        self._endings = compiled.endings
        self._json = bytearray()  # what there is of an answer's JSON, or of a call's arguments
        self._tokens_of = tokens_of
        self._single = single
        self._bytes_of = bytes_of
        self._runs = RunLengths()
        # Normal text has fewer tokens than characters; only a model gone astray needs more.
        self._string_tokens = compiled.string_tokens

    branch: Branch | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def forced(self) -> list[int]:
        """Take the tokens that must come next: keys, punctuation, the rest of an enum."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        for token in tokens:
            self.accept(token)
        return tokens

    def forced_bytes(self) -> bytes:
        """Return what must come next, without taking it."""
        coming: bytes = self._matcher.compute_ff_bytes()
        return coming

    @property
    def matcher(self) -> LLMatcher | None:
        """See `calls.Mask`."""
        return self._matcher

    def narrow(self, bits: NDArray[np.uint8]) -> None:
        """See `calls.Mask`. A string or number that is too long ends.

        Raises:
            Refused: the compiler hit one of its limits inside this answer.
        """
        if self._matcher.is_error() or not bits.any():
            raise self._too_complex()
        limit = self._string_tokens if self._runs.in_string else NUMBER_TOKENS_MAX
        if self._runs.length < limit:
            return
        for closer in '"' if self._runs.in_string else ",}]":
            token = self._single.get(closer)
            if token is not None and _bit(bits, token):
                bits[:] = 0
                bits[token // 8] = 1 << (token % 8)
                return

    def allowed(self) -> bytes:
        """See `calls.Mask`. Raises Refused as `narrow` does."""
        bits = np.frombuffer(bytearray(self._matcher.compute_bitmask()), np.uint8)
        self.narrow(bits)
        return bits.tobytes()

    def takes(self, token: int) -> bool:
        """Whether the grammar goes on with this token, be it spelled in a way that it does not."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def accept(self, token: int) -> None:
        """Step over a sampled token.

        Raises:
            Refused: as for `narrow`.
        """
        if not self._matcher.consume_token(token):
            raise self._too_complex()
        self._follow(token)

    def close(self, most: int = CUT_TOKENS_MAX) -> list[int]:
        """Return the tokens that complete the answer, about `most` of them.

        They follow the shortest ending of the schema. What only the grammar can tell, such as the
        end of a text with a pattern, is found one character after another. [] if there is no end.
        """
        tokens: list[int] = []
        steps = 0  # in one text
        while not self._complete and len(tokens) < most:
            found = (self._ending() if steps < STEPS_TRIED else []) or self._step()
            if not found:
                return []
            tokens += found
            steps = steps + 1 if self._runs.in_string else 0
        return tokens if self._complete else []

    @property
    def _complete(self) -> bool:
        return self.finished or bool(self._matcher.is_accepting())

    @property
    def _which(self) -> str | None:
        """Return which of the endings the answer has; None while that is not decided."""
        return ""

    def _ending(self) -> list[int]:
        """Take the shortest ending that the grammar takes, up to where only it can tell."""
        endings = self._endings.get(self._which) if self._which is not None else None
        if endings is None:
            return []
        try:
            ways = endings.after(self._json.decode())
        except (UnicodeDecodeError, RecursionError):  # inside a character; nested without sense
            return []
        for _weight, text in ways:
            tokens = self._tokens_of(text.partition(HOLE)[0])
            if self._matcher.validate_tokens(tokens) == len(tokens):
                for token in tokens:
                    self.accept(token)
                return tokens
        return []

    def _step(self) -> list[int]:
        """Take what is forced, else the character that closes soonest."""
        if forced := self.forced():
            return forced
        token = self._closest(self._matcher.compute_bitmask())
        if token is None:
            return []
        self.accept(token)
        return [token]

    def _follow(self, token: int) -> None:
        """Note what a token that was taken says."""
        data = self._bytes_of(token)
        self._json += data
        self._runs.feed(data)

    def _too_complex(self) -> Refused:
        reason = (self._matcher.get_error() or "nothing is legal").splitlines()[0]
        return Refused(f"the schema became too complex: {reason}", code="unsupported_schema")

    def _closest(self, bits: bytes) -> int | None:
        closers = CLOSERS
        if self._runs.in_string:
            # In a long string another character each time: a pattern may wait for one of them.
            at = 1 + max(0, self._runs.length - SAME_MAX) % (len(STRING_CLOSERS) - 1)
            closers = STRING_CLOSERS[0] + STRING_CLOSERS[at:] + STRING_CLOSERS[1:at]
        for character in closers:
            token = self._single.get(character)
            if token is not None and _bit(bits, token):
                return token
        for at, byte in enumerate(bits):  # inside a character of several bytes, or a pattern
            if byte:
                return at * 8 + (byte & -byte).bit_length() - 1
        return None


class CallMask(AnswerMask):
    """As AnswerMask, for an answer that is free text, or fits a schema, or calls a tool.

    Only JSON has its strings and numbers bounded. Where nothing but text is going on, its mask is
    computed once for all answers: that takes 100 us, and it is always the same.
    """

    def __init__(
        self,
        compiled: Compiled,
        single: Mapping[str, int],
        bytes_of: Callable[[int], bytes],
        tokens_of: Callable[[str], list[int]],
        form: Form,
        *,
        json_answer: bool,
    ) -> None:
        super().__init__(compiled, single, bytes_of, tokens_of)
        self._compiled = compiled
        self._json_answer = json_answer
        self._reader = CallReader(form)
        self._utf8 = decoder()

    @property
    def matcher(self) -> LLMatcher | None:
        """See `calls.Mask`."""
        return None if self._text and self._compiled.text is not None else self._matcher

    def narrow(self, bits: NDArray[np.uint8]) -> None:
        """See `calls.Mask`. Raises Refused as that of an AnswerMask does."""
        if self._text and self._compiled.text is not None:
            bits[:] = self._compiled.text
            return
        super().narrow(bits)
        if self._text:
            self._compiled.text = bits.copy()

    @property
    def _text(self) -> bool:
        """Whether nothing but text is going on."""
        return not self._json_answer and self._reader.plain and not self._utf8.getstate()[0]

    def close(self, most: int = CUT_TOKENS_MAX) -> list[int]:
        """Return the tokens that complete the answer; text needs none, wherever it is cut."""
        return super().close(most) if self._json_answer or self._reader.begun else []

    @property
    def _which(self) -> str | None:
        return self._reader.name if self._reader.begun else ""

    def _follow(self, token: int) -> None:
        data = self._bytes_of(token)
        part = self._reader.feed(self._utf8.decode(data))
        if self._reader.begun:
            if part.name is not None:
                self._json.clear()
            self._json += part.arguments.encode()
        elif self._json_answer:
            self._json += data
        if self._json_answer:
            self._runs.feed(data)
        elif part.arguments:
            self._runs.feed(part.arguments.encode())


class RunLengths:
    """Follows compact JSON and counts the tokens of the string or number it is in."""

    def __init__(self) -> None:
        self.in_string = False
        self._escaped = False
        self.length = 0

    def feed(self, data: bytes) -> None:
        """Step over one token's bytes."""
        self.length += 1
        for byte in data:
            if self.in_string:
                if self._escaped:
                    self._escaped = False
                elif byte == 0x5C:  # backslash
                    self._escaped = True
                elif byte == 0x22:  # quote
                    self.in_string, self.length = False, 0
            elif byte == 0x22:
                self.in_string, self.length = True, 0
            elif byte in b"{}[],:":
                self.length = 0


def _bit(bits: bytes | NDArray[np.uint8], token: int) -> bool:
    return token // 8 < len(bits) and bool(bits[token // 8] >> (token % 8) & 1)


def single_tokens(tokenizer: LLTokenizer) -> dict[str, int]:
    """Return the token of each character that has one of its own."""
    found = {}
    for character in sorted(set(CLOSERS + STRING_CLOSERS)):
        tokens = tokenizer.tokenize_str(character)
        if len(tokens) == 1 and tokenizer.decode_bytes(tokens) == character.encode():
            found[character] = tokens[0]
    return found
