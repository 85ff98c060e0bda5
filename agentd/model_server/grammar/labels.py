"""Labels of an answer: fields whose value the model chooses by one token, shifted by offsets.

A mask alone lets a label be spelled in several ways (`bug`, `b` and `ug`), so that an offset on one
of them moves the choice to another. So where such a field begins, the tokens up to the first one by
which its labels differ are forced as the tokenizer writes them, there the labels' own tokens alone
are legal, and behind it the chosen label is forced to its end. Some tokenizers join the opening
quote with a label's first letters: then the choice lies before the quote.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from agentd.json_schema.bounds import Schema
from agentd.model_server.calls import Branch, Refused
from agentd.model_server.grammar.mask import AnswerMask
from agentd.model_server.grammar.spelling import key, spelled
from agentd.model_server.protocols import Labels
from agentd.states import LABELS_MAX, LABELS_MIN

SHOWN = 20  # names that an error lists

Place = tuple[str | None, str]  # the constant `tool` of the object, if it has one, and the field


@dataclass(frozen=True)
class LabelField:
    """A field of labels."""

    name: str  # as the request has it
    offsets: Mapping[str, float]  # nats, by label
    words: bool  # whether labels are read as words: see `_words`


def label_fields(
    schema: Schema, asked: Labels, tokenizer: LLTokenizer, *, words: bool
) -> dict[Place, LabelField]:
    """Return the fields of labels by their places in an answer of `schema`.

    Raises:
        Refused: a field is not there, has other labels, or two that begin with the same token.
    """
    known = {name: (place, values) for name, place, values in _enums(schema)}
    found: dict[Place, LabelField] = {}
    for name, offsets in asked.items():
        if name not in known:
            names = ", ".join(list(known)[:SHOWN]) or "none"
            raise _wrong(name, f"is no field of labels; the schema has {names}")
        place, values = known[name]
        if place in found:
            raise _wrong(name, f"is the same field as {found[place].name}")
        if set(offsets) != set(values):
            raise _wrong(name, f"its labels must be those of the schema: {', '.join(values)}")
        if not LABELS_MIN <= len(offsets) <= LABELS_MAX:
            raise _wrong(name, f"may have {LABELS_MIN} to {LABELS_MAX} labels")
        found[place] = LabelField(name, offsets, words)
        _fork(found[place], f'{key(place[1])}:"'.encode(), tokenizer)
    return found


class LabelMask:
    """An answer's mask that chooses labels by one token each. Implements `calls.Mask`."""

    def __init__(
        self, mask: AnswerMask, fields: Mapping[Place, LabelField], tokenizer: LLTokenizer
    ) -> None:
        self._mask, self._fields, self._tokenizer = mask, fields, tokenizer
        self._at = _AtTop()
        self._rests: Mapping[int, Sequence[int]] = {}  # of the labels, by their tokens
        self._due: Sequence[int] = ()  # the rest of the label that was chosen
        self.branch: Branch | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        return self._mask.finished

    def forced(self) -> list[int]:
        """Take the tokens that must come next, up to the choice of a label."""
        due, self._due = list(self._due), ()
        self._take(due)
        coming = self._mask.forced_bytes()
        field, size = self._at.opens(coming, self._fields)
        if field is None:
            forced = self._mask.forced()
            self._follow(forced)
            return due + forced
        run, self.branch, self._rests = _fork(field, coming[:size], self._tokenizer)
        self._take(run)
        return due + run

    @property
    def matcher(self) -> LLMatcher | None:
        """See `calls.Mask`."""
        return self._mask.matcher

    def narrow(self, bits: NDArray[np.uint8]) -> None:
        """See `calls.Mask`. At a choice the labels' own tokens are left.

        Raises:
            Refused: the compiler hit one of its limits inside this answer.
        """
        self._mask.narrow(bits)
        if self.branch is None:
            return
        # Not by these bits: where labels have letters in common, they spell these in one way.
        bits[:] = 0
        for token in filter(self._mask.takes, self.branch.tokens.values()):
            bits[token // 8] |= 1 << token % 8
        if not bits.any():
            raise _wrong(self.branch.field, "none of its labels is legal here")

    def allowed(self) -> bytes:
        """See `calls.Mask`. Raises Refused as `narrow` does."""
        bits = np.frombuffer(bytearray(self._mask.allowed()), np.uint8)
        self.narrow(bits)
        return bits.tobytes()

    def accept(self, token: int) -> None:
        """Step over a sampled token; where it chose a label, the rest of that comes next.

        Raises:
            Refused: as for `narrow`.
        """
        self._take([token])
        if self.branch is not None:
            self.branch, self._due = None, self._rests[token]

    def close(self) -> list[int]:
        """Return the tokens that complete the answer; a label in them was not chosen."""
        return self._mask.close()

    def _take(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._mask.accept(token)
        self._follow(tokens)

    def _follow(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._at.feed(self._tokenizer.decode_bytes([token]))


@dataclass
class _AtTop:
    """Follows an answer's JSON and knows which field at its top level it is in."""

    tool: str | None = None  # what the object's own `tool` says
    key: str | None = None  # of the value that comes or goes on; None: a key comes
    string: bytes | None = None  # what there is of the string that goes on
    escaped: bool = False
    depth: int = 0
    json: bool = True  # else it is a text, or a call

    def opens(
        self, coming: bytes, fields: Mapping[Place, LabelField]
    ) -> tuple[LabelField | None, int]:
        """Return the field whose string begins within `coming`, and after how many bytes."""
        at = replace(self)
        for size in range(len(coming) + 1):
            if at.string == b"" and at.key is not None and at.depth == 1:
                field = fields.get((at.tool, at.key)) or fields.get((None, at.key))
                if field is not None:
                    return field, size
            at.feed(coming[size : size + 1])
        return None, 0

    def feed(self, data: bytes) -> None:
        """Step over some bytes."""
        for byte in data:
            self.json = self.json and (self.depth > 0 or byte == 0x7B)
            if not self.json:
                return
            if self.string is not None:
                self._within(byte)
            elif byte == 0x22:  # quote
                self.string = b""
            elif byte in b"{[":
                self.depth += 1
            elif byte in b"}]":
                self.depth -= 1
            elif byte == 0x2C and self.depth == 1:  # comma
                self.key = None

    def _within(self, byte: int) -> None:
        assert self.string is not None
        if byte != 0x22 or self.escaped:
            self.string += bytes([byte])
            self.escaped = byte == 0x5C and not self.escaped  # backslash
            return
        text, self.string = json.loads(b'"' + self.string + b'"'), None
        if self.depth == 1 and self.key is None:
            self.key = text
        elif self.depth == 1 and self.key == "tool":
            self.tool = text


def _enums(schema: Schema) -> Iterator[tuple[str, Place, list[str]]]:
    """Yield the names of an answer's fields that are enums of texts, their places and values."""
    members = schema.get("anyOf") or schema.get("oneOf") or []
    for member in members or [schema]:
        properties = _resolved(member, schema).get("properties", {})
        tool = None
        if next(iter(properties), None) == "tool":
            tool = _resolved(properties["tool"], schema).get("const")
        for name, value in properties.items():
            values = _resolved(value, schema).get("enum", [])
            if not values or not all(isinstance(value, str) for value in values):
                continue
            if tool is not None:
                yield f"{tool}.{name}", (tool, name), values
            if not members:
                yield name, (tool, name), values


def _resolved(node: Schema, schema: Schema) -> Schema:
    """Return what a schema, or its reference, says; a reference is one that was compiled."""
    while "$ref" in node:
        found = schema
        for part in node["$ref"].split("/")[1:]:
            found = found[part.replace("~1", "/").replace("~0", "~")]
        node = found
    return node


def _fork(
    field: LabelField, before: bytes, tokenizer: LLTokenizer
) -> tuple[list[int], Branch, dict[int, list[int]]]:
    """Return what the labels' tokens have in common, the choice, and the rests by their tokens.

    `before` is what comes before the labels, their opening quote included if it is not there yet.
    A label's last token is left to the grammar where it can be nothing else: often the closing
    quote is one token with what follows.

    Raises:
        Refused: two labels begin with the same token.
    """
    names = list(field.offsets)
    texts = [before + spelled(name, ",", ":").encode()[1:] for name in names]
    runs = [tokenizer.tokenize_bytes(text) for text in texts]
    common = sum(
        1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*runs, strict=False))
    )
    first: dict[int, str] = {}
    rests = {}
    for name, text, run in zip(names, texts, runs, strict=True):
        if (other := first.setdefault(run[common], name)) != name:
            raise _wrong(field.name, f"{other!r} and {name!r} begin with the same token")
        known = text[: -len(tokenizer.decode_bytes(run[-1:]))]
        alone = sum(one.startswith(known) for one in texts) == 1
        rests[run[common]] = run[common + 1 : -1 if alone else None]
    tokens = {name: token for token, name in first.items()}
    at_start = tokenizer.decode_bytes(runs[0][:common]) == before
    words = _words(names, tokenizer) if field.words and at_start else {}
    return runs[0][:common], Branch(field.name, tokens, field.offsets, words), rests


def _words(labels: Sequence[str], tokenizer: LLTokenizer) -> dict[str, int]:
    """Return the tokens with which labels begin as words of a text, behind a space.

    Behind a quote a small model thinks of JSON, and what it reads hardly moves its choice. There,
    too, it knows which word would come: with what each gets as a word, the bundled model made 74 %
    of 210 texts of ten kinds right, and 61 % with what it gets as JSON (each label's mean taken
    off). Nothing where two words begin with the same token.
    """
    words = {label: tokenizer.tokenize_bytes(f" {label}".encode())[0] for label in labels}
    return words if len(set(words.values())) == len(labels) else {}


def _wrong(name: str, why: str) -> Refused:
    return Refused(f"agentd_labels.{name}: {why}", param="agentd_labels")
