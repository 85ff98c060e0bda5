"""Answers that are legal by construction: JSON Schemas compiled to token masks by llguidance.

A schema is compiled once (1 to 10 ms) and found and copied per request (12 us); the mask of one
step takes 14 us as a rule and 0.3 ms at most with a vocabulary of 49,152. JSON is compact, without
free whitespace, properties come in the schema's order, and strings have no \\u escapes, which cost
six tokens a character.
"""

import hashlib
import json
import threading
from collections import OrderedDict

from llguidance import LLMatcher, LLTokenizer

from agentd.model_server.calls import Refused
from agentd.model_server.schema_rules import bounded, refuse

COMPILED_MAX = 128  # schemas kept compiled
SCHEMA_BYTES_MAX = 262_144
NUMBER_TOKENS_MAX = 24
CLOSING_TOKENS_MAX = 2000  # to close an answer; more means that the schema cannot be closed
OPTIONS = {"whitespace_flexible": False, "json_allowed_escapes": '"\\nt'}

# Which character leads to the end soonest, outside and inside of strings. What opens something
# comes last. Between digits and letters: null, true, false are each forced after one letter.
CLOSERS = '}],:0123456789ntf"abcdefghijklmopqrsuvwxyz-. _{['
STRING_CLOSERS = '"a@.:/-0bcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ123456789 _,'

SAME_MAX = 8  # tokens of a string before its closing tries one character after another


class Grammars:
    """Compiles schemas for one tokenizer and keeps the compiled ones. Usable from any thread."""

    def __init__(self, tokenizer_json: str, vocabulary: int, end_tokens: list[int]) -> None:
        self.tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=end_tokens)
        self._compiled: OrderedDict[str, tuple[LLMatcher, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._single = _single_tokens(self.tokenizer)

    def mask(self, schema: object) -> "AnswerMask":
        """Return a fresh mask for one answer.

        Raises:
            Refused: the schema is too large or cannot be honoured.
        """
        # The order of properties is the order of the answer: no sorting here.
        text = json.dumps(schema)
        if len(text) > SCHEMA_BYTES_MAX:
            raise refuse("", f"longer than {SCHEMA_BYTES_MAX} bytes")
        key = hashlib.sha256(text.encode()).hexdigest()
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        if found is None:
            found = self._compile(schema)
            with self._lock:
                self._compiled[key] = found
                if len(self._compiled) > COMPILED_MAX:
                    self._compiled.popitem(last=False)
        matcher, string_tokens = found
        return AnswerMask(matcher.deep_copy(), self.tokenizer, self._single, string_tokens)

    def _compile(self, schema: object) -> tuple[LLMatcher, int]:
        ready = bounded(schema)
        try:
            text = json.dumps(ready.schema)
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=OPTIONS)
        except ValueError as error:  # numbers beyond a double, values nested too deep
            raise refuse("", f"the schema cannot be compiled: {error}") from error
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise refuse("", f"the schema cannot be compiled: {reason}")
        self._try_to_close(matcher, ready.longest_string)
        return matcher, ready.longest_string

    def _try_to_close(self, matcher: LLMatcher, string_tokens: int) -> None:
        """Refuse a schema without an end, such as a node that requires a node."""
        trial = AnswerMask(matcher.deep_copy(), self.tokenizer, self._single, string_tokens)
        try:
            closed = trial.close()
        except Refused:
            closed = []
        if not closed:
            raise refuse("", f"no answer of {CLOSING_TOKENS_MAX} tokens or fewer was found for it")


class AnswerMask:
    """The grammar of one answer at its present place. Implements `calls.Mask`."""

    def __init__(
        self,
        matcher: LLMatcher,
        tokenizer: LLTokenizer,
        single: dict[str, int],
        string_tokens: int,
    ) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._single = single
        self._runs = RunLengths()
        # Normal text has fewer tokens than characters; only a model gone astray needs more.
        self._string_tokens = string_tokens

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

    def allowed(self) -> bytes:
        """Return one bit per token of the vocabulary, least significant bit first.

        Raises:
            Refused: the compiler hit one of its limits inside this answer.
        """
        bits: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error() or bits.count(0) == len(bits):
            raise self._too_complex()
        limit = self._string_tokens if self._runs.in_string else NUMBER_TOKENS_MAX
        if self._runs.length >= limit:
            for closer in '"' if self._runs.in_string else ",}]":
                token = self._single.get(closer)
                if token is not None and _bit(bits, token):
                    only = bytearray(len(bits))
                    only[token // 8] = 1 << (token % 8)
                    return bytes(only)
        return bits

    def accept(self, token: int) -> None:
        """Step over a sampled token.

        Raises:
            Refused: as for `allowed`.
        """
        if not self._matcher.consume_token(token):
            raise self._too_complex()
        if not self._matcher.is_stopped():
            self._runs.feed(self._tokenizer.decode_bytes([token]))

    def close(self) -> list[int]:
        """Return the tokens that complete the answer.

        Takes what is forced, else the character that closes soonest. [] if that finds no end.
        """
        tokens: list[int] = []
        while not self.finished and len(tokens) < CLOSING_TOKENS_MAX:
            forced = self.forced()
            if forced:
                tokens += forced
                continue
            if self.finished or self._matcher.is_accepting():
                break
            token = self._closest(self._matcher.compute_bitmask())
            if token is None:
                return []
            self.accept(token)
            tokens.append(token)
        return tokens if self.finished or self._matcher.is_accepting() else []

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


def _bit(bits: bytes, token: int) -> bool:
    return token // 8 < len(bits) and bool(bits[token // 8] >> (token % 8) & 1)


def _single_tokens(tokenizer: LLTokenizer) -> dict[str, int]:
    """Return the token of each character that has one of its own."""
    found = {}
    for character in sorted(set(CLOSERS + STRING_CLOSERS)):
        tokens = tokenizer.tokenize_str(character)
        if len(tokens) == 1 and tokenizer.decode_bytes(tokens) == character.encode():
            found[character] = tokens[0]
    return found
