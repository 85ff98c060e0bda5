"""Tool calls in an answer: which there may be, how a model writes them, how they are read.

Models write a call as they were trained to: `<tool_call>` and JSON, `[TOOL_CALLS]` and JSON, bare
JSON. A `Form` says how; `template.py` learns it from the chat template. An answer holds one call
at most, and ends with its arguments.
"""

import codecs
from dataclasses import dataclass
from typing import Any

# Special tokens have no text. Where a form contains one, a mark stands for it: half a surrogate
# pair, whose byte is in no UTF-8 (RFC 3629), so that no text can hold one.
_MARK_BYTES = (*range(0xF5, 0x100), 0xC0, 0xC1)
MARKS = tuple(chr(0xDC00 + byte) for byte in _MARK_BYTES)
_NO_MARKS = dict.fromkeys(map(ord, MARKS))


@dataclass(frozen=True)
class OfferedTool:
    """A function that an answer may call."""

    name: str  # letters, digits, _ and -
    parameters: dict[str, Any]  # a JSON Schema of type object
    description: str = ""


@dataclass(frozen=True)
class ToolChoice:
    """The tools that an answer may call, by name, and whether it has to call one."""

    names: tuple[str, ...]
    required: bool = False


@dataclass(frozen=True)
class Form:
    """How a model writes a call: `before`, the name, `between`, the arguments as JSON.

    `trigger` is a beginning of `before` that is a call wherever it stands in an answer. Without
    one an answer is a call only if the whole of `before` is its beginning.
    """

    before: str
    between: str
    trigger: str = ""
    spaced: bool = True  # the arguments' JSON has a space after each comma and colon
    native: bool = False  # the chat template writes tools, calls and results by itself
    text_arguments: bool = False  # it takes past arguments as JSON text, not as an object

    @property
    def opening(self) -> str:
        """What decides that a call begins."""
        return self.trigger or self.before


# For templates that know no tools. The words that explain it to the model are in `template.py`.
OWN_FORM = Form('<tool_call>\n{"name": "', '", "arguments": ', trigger="<tool_call>")


def encoded(text: str) -> bytes:
    """Return a text's bytes; a mark's is one that no text has."""
    return text.encode("utf-8", "surrogateescape")


def decoder() -> codecs.IncrementalDecoder:
    """Return what reads an answer's bytes piece by piece: marks too, else errors as U+FFFD."""
    return codecs.getincrementaldecoder("utf-8")("agentd.marks")


def _mark_or_replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start]
    return (chr(0xDC00 + byte) if byte in _MARK_BYTES else "\ufffd"), error.end


codecs.register_error("agentd.marks", _mark_or_replacement)


@dataclass
class AnswerPart:
    """What became known of an answer: more content, a call's name, more of its arguments."""

    content: str = ""
    name: str | None = None
    arguments: str = ""


def overlap(word: str, text: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `word`, not all of it.

    That much of a text is undecided while more of it comes.
    """
    sizes = range(min(len(word) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(word[:size])), 0)


class CallReader:
    """Splits an answer, as it comes, into content and a call. Without a form all is content."""

    def __init__(self, form: Form | None) -> None:
        self._form = form
        self._held = ""  # may still become part of a call's beginning
        self.begun = False  # a call's beginning was there, so that nothing but it can follow
        self.name: str | None = None
        self._content = False  # content was given away

    @property
    def plain(self) -> bool:
        """Whether the answer is free text so far, and its end is no part of a call's beginning."""
        if self.begun or (self._form and not self._form.trigger and not self._content):
            return False
        return not self._held.strip()

    def feed(self, text: str, *, last: bool = False) -> AnswerPart:
        """Take more text; `last` gives away what is still held back."""
        if self._form is None:
            return AnswerPart(text.translate(_NO_MARKS))
        part = AnswerPart()
        if self.name is not None:
            part.arguments = text
            return part
        self._held += text
        if not self.begun:
            part.content = self._text(self._form, last)
        if self.begun:
            self._head(self._form, part)
        if last and self.begun and self.name is None:  # no call came of it: nothing is lost
            part.content += (self._form.opening + self._held).translate(_NO_MARKS)
        return part

    def _text(self, form: Form, last: bool) -> str:
        """Take content from what is held, up to a call's beginning."""
        if not form.trigger and self._content:
            at = -1
        elif not form.trigger:
            at = 0 if self._held.startswith(form.before) else -1
        else:
            at = self._held.find(form.trigger)
        if at >= 0:
            content, self._held = self._held[:at], self._held[at + len(form.opening) :]
            self.begun = True
            return content.rstrip().translate(_NO_MARKS)
        keep = 0 if last else self._undecided(form)
        content = self._held[: len(self._held) - keep]
        self._held = self._held[len(content) :]
        self._content = self._content or bool(content)
        return content.translate(_NO_MARKS)

    def _undecided(self, form: Form) -> int:
        """Return the length of the end that may belong to a call's beginning, space before it."""
        held = self._held
        if form.trigger:
            size = overlap(form.trigger, held)
        elif self._content:
            return 0
        else:
            size = len(held) if form.before.startswith(held) else 0
        rest = held[: len(held) - size]
        return size + len(rest) - len(rest.rstrip())

    def _head(self, form: Form, part: AnswerPart) -> None:
        """Take the rest of `before`, the name and `between` from what is held."""
        begun = len(form.before) - len(form.opening)
        at = self._held.find(form.between, begun)
        if at >= 0:
            part.name = self.name = self._held[begun:at]
            part.arguments, self._held = self._held[at + len(form.between) :], ""
