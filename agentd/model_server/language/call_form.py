"""What a chat template does with answers and tool calls: learned by rendering some.

Where a template knows no tools, or writes calls in a way that is not understood here, there is a
form of our own, which `plain_form.py` explains to the model.
"""

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from agentd.model_server.calls import Refused
from agentd.model_server.language.template import Template
from agentd.model_server.protocols import Message
from agentd.model_server.tool_calls import MARKS, OWN_FORM, CallReader, Form, OfferedTool

# Words that no template contains.
USER, NAME, KEY, VALUE, RESULT = (f"agentd{n}probe" for n in range(5))
CALL_ID = "call00000"  # as ours are: Mistral's templates insist on nine characters
ARGUMENTS = re.compile(rf'\{{"{KEY}":( ?)"{VALUE}"\}}')
HALF_MARKER = re.compile(r"[<\[][^>\]]*$")  # what a common beginning must not end in
TRIGGER = re.compile(r"<[^<>\s]{2,40}>|\[[A-Z_]{3,40}\]")

# Calls that must be read as they were rendered: what a form has to stand.
PROOFS: tuple[tuple[str, dict[str, Any]], ...] = (
    (f"{NAME}-2_b", {KEY: 'a "b" \\ \n é', "n": [1, -2.5, None, True], "o": {"p": {}, "q": "<x>"}}),
    (NAME, {}),
)


def answer_start(template: Template, markers: Collection[str]) -> str:
    """Return what a template writes before an answer's text, but not at the end of a prompt.

    Such as a channel for answers: without it a model may begin with a thought. `markers` are the
    tokenizer's; what holds none of them is no more than white space.
    """
    asked: list[Message] = [{"role": "user", "content": USER}]
    answered = [*asked, {"role": "assistant", "content": RESULT}]
    try:
        beginning = _text(template, asked)
        before, found, _rest = _text(template, answered, answer=False).partition(RESULT)
    except Refused:
        return ""
    start = before.removeprefix(beginning)
    known = found and before.startswith(beginning) and any(name in start for name in markers)
    return start if known else ""


def takes_system(template: Template) -> bool:
    """Say whether a template takes a system message, and shows it."""
    messages = [{"role": "system", "content": RESULT}, {"role": "user", "content": USER}]
    try:
        return RESULT in _text(template, messages)
    except Refused:
        return False


def learn(
    template: Template,
    specials: Mapping[str, int],
    ends: AbstractSet[int] = frozenset(),
    start: str = "",
) -> tuple[Form, dict[int, str]]:
    """Return how calls are written, and the marks that stand for special tokens in it.

    `specials` are the tokenizer's special tokens by their text, and `ends` those that end an
    answer: no call can hold one. `start` is what prompts end in beside what the template writes.
    """
    for as_text in (False, True):
        probe = _Probe(template, start, as_text)
        try:
            found = _learn(probe, specials)
            proved = found is not None and all(
                _reads(probe, *found, specials, *call) for call in PROOFS
            )
            if found is not None and proved and not ends & found[1].keys():
                return found
            if str({KEY: VALUE}) not in probe.call(NAME, {KEY: VALUE}):
                break  # it writes the arguments its own way, which is not JSON
        except Refused:  # no tools, or not this way
            continue
    return OWN_FORM, {}


class _Probe:
    """Renders calls of a template, with their arguments as an object or as JSON text."""

    def __init__(self, template: Template, start: str, as_text: bool) -> None:
        self._template, self.start, self.as_text = template, start, as_text

    def prompt_end(self, name: str) -> str:
        """Return what a prompt ends in, or "" where the tool was not shown."""
        text = _text(self._template, [{"role": "user", "content": USER}], [_tool(name)])
        return text.rpartition(USER)[2] + self.start if name in text else ""

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Return what stands behind the prompt where the answer is this call."""
        beginning = self.prompt_end(name)
        whole = _text(self._template, self._called(name, arguments), [_tool(name)], answer=False)
        whole = whole.rpartition(USER)[2]
        same = itertools.takewhile(lambda p: p[0] == p[1], zip(beginning, whole, strict=False))
        common = HALF_MARKER.sub("", whole[: len(list(same))])
        if not common.endswith(self.start):  # a call does not begin where a text does
            return ""
        return whole[len(common) :].lstrip()

    def shows_results(self) -> bool:
        """Whether the result of a call is shown, too."""
        result = {"role": "tool", "tool_call_id": CALL_ID, "name": NAME, "content": RESULT}
        messages = [*self._called(NAME, {KEY: VALUE}), result]
        return RESULT in _text(self._template, messages, [_tool(NAME)])

    def _called(self, name: str, arguments: dict[str, Any]) -> list[Message]:
        given = json.dumps(arguments, ensure_ascii=False) if self.as_text else arguments
        function = {"name": name, "arguments": given}
        call = {"id": CALL_ID, "type": "function", "function": function}
        return [
            {"role": "user", "content": USER},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]


def _learn(probe: _Probe, specials: Mapping[str, int]) -> tuple[Form, dict[int, str]] | None:
    if not probe.prompt_end(NAME) or not probe.shows_results():
        return None
    whole = probe.call(NAME, {KEY: VALUE})
    before, _name, rest = whole.partition(NAME)
    written = ARGUMENTS.search(rest)
    if written is None or sum(name in whole for name in specials) > len(MARKS):
        return None
    marks: dict[int, str] = {}
    before = _marked(before, specials, marks)
    between = _marked(rest[: written.start()], specials, marks)
    if not before or not between or re.match(r"[A-Za-z0-9_-]", between):
        return None  # where a call or its name begins or ends could not be told
    trigger = before[0] if before[0] in MARKS else ""
    if not trigger and (found := TRIGGER.match(before)):
        trigger = found[0]
    spaced = bool(written[1])
    form = Form(before, between, trigger, spaced, native=True, text_arguments=probe.as_text)
    return form, marks


def _reads(
    probe: _Probe,
    form: Form,
    marks: Mapping[int, str],
    specials: Mapping[str, int],
    name: str,
    arguments: dict[str, Any],
) -> bool:
    """Whether a call is read as it was rendered, name and arguments."""
    reader = CallReader(form)
    part = reader.feed(_marked(probe.call(name, arguments), specials, dict(marks)), last=True)
    try:
        read, _end = json.JSONDecoder().raw_decode(part.arguments)
    except ValueError:
        return False
    return (part.content, reader.name, read) == ("", name, arguments)


def _tool(name: str) -> OfferedTool:
    schema = {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]}
    return OfferedTool(name, schema, "probe")


def _text(
    template: Template,
    messages: Sequence[Message],
    tools: Sequence[OfferedTool] = (),
    *,
    answer: bool = True,
) -> str:
    return "".join(text for text, _own in template.render(messages, tools, answer=answer))


def _marked(text: str, specials: Mapping[str, int], marks: dict[int, str]) -> str:
    """Replace special tokens by marks, and note which."""
    for name in sorted(specials, key=len, reverse=True):
        if name in text and len(marks) < len(MARKS):
            mark = marks.setdefault(specials[name], MARKS[len(marks)])
            text = text.replace(name, mark)
    return text
