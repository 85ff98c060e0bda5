"""How a chat template has its model write tool calls: learned by rendering one.

Where a template knows no tools, or writes calls in a way that is not understood here, the tools
are explained to the model in a system message, and calls and results are told as plain messages.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.model_server.calls import Message, Refused
from agentd.model_server.language.template import Template, described
from agentd.model_server.tool_calls import MARKS, OWN_FORM, Form, OfferedTool

# Words that no template contains.
USER, NAME, KEY, VALUE, RESULT = (f"agentd{n}probe" for n in range(5))
ARGUMENTS = re.compile(rf'\{{"{KEY}":( ?)"{VALUE}"\}}')
HALF_MARKER = re.compile(r"[<\[][^>\]]*$")  # what a common beginning must not end in
TRIGGER = re.compile(r"<[^<>\s]{2,40}>|\[[A-Z_]{3,40}\]")

EXPLANATION = """\
You can call one function to help with the request. The functions, each with the JSON Schema \
of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with nothing but its name and arguments, like this:
<tool_call>
{{"name": "NAME", "arguments": ARGUMENTS}}
</tool_call>
Its result then comes within <tool_response></tool_response>. Otherwise answer in plain text."""


def learn(template: Template, specials: Mapping[str, int]) -> tuple[Form, dict[int, str]]:
    """Return how calls are written, and the marks that stand for special tokens in it.

    `specials` are the tokenizer's special tokens by their text.
    """
    for as_text in (False, True):
        try:
            found = _learn(template, specials, as_text)
        except Refused:  # no tools, or not this way
            continue
        if found is not None:
            return found
    return OWN_FORM, {}


def _learn(
    template: Template, specials: Mapping[str, int], as_text: bool
) -> tuple[Form, dict[int, str]] | None:
    schema = {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]}
    tools = [OfferedTool(NAME, schema, "probe")]
    arguments: Any = {KEY: VALUE}
    call = {
        "id": "probe0000",  # Mistral's templates insist on nine characters
        "type": "function",
        "function": {"name": NAME, "arguments": json.dumps(arguments) if as_text else arguments},
    }
    asked: list[Message] = [{"role": "user", "content": USER}]
    called = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
    answered = [
        *called,
        {"role": "tool", "tool_call_id": "probe0000", "name": NAME, "content": RESULT},
    ]
    beginning = _text(template, asked, tools)
    if NAME not in beginning or RESULT not in _text(template, answered, tools):
        return None
    beginning = beginning.rpartition(USER)[2]
    whole = _text(template, called, tools, answer=False).rpartition(USER)[2]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(beginning, whole, strict=False))
    common = HALF_MARKER.sub("", whole[: len(list(same))])
    before, _name, rest = whole[len(common) :].partition(NAME)
    written = ARGUMENTS.search(rest)
    if written is None:
        return None
    if sum(name in whole for name in specials) > len(MARKS):
        return None
    marks: dict[int, str] = {}
    before = _marked(before.lstrip(), specials, marks)
    between = _marked(rest[: written.start()], specials, marks)
    if not before or not between or re.match(r"[A-Za-z0-9_-]", between):
        return None  # where a call or its name begins or ends could not be told
    trigger = before[0] if before[0] in MARKS else ""
    if not trigger and (found := TRIGGER.match(before)):
        trigger = found[0]
    spaced = bool(written[1])
    return Form(before, between, trigger, spaced, native=True, text_arguments=as_text), marks


def _text(
    template: Template,
    messages: Sequence[Message],
    tools: Sequence[OfferedTool],
    *,
    answer: bool = True,
) -> str:
    return "".join(text for text, _own in template.render(messages, tools, answer=answer))


def _marked(text: str, specials: Mapping[str, int], marks: dict[int, str]) -> str:
    """Replace special tokens by marks, and note which."""
    for name in sorted(specials, key=len, reverse=True):
        if name in text:
            mark = marks.setdefault(specials[name], MARKS[len(marks)])
            text = text.replace(name, mark)
    return text


def takes_system(template: Template) -> bool:
    """Say whether a template takes a system message, and shows it."""
    messages = [{"role": "system", "content": RESULT}, {"role": "user", "content": USER}]
    try:
        return RESULT in _text(template, messages, ())
    except Refused:
        return False


def explained(
    messages: Sequence[Message], tools: Sequence[OfferedTool], *, system: bool
) -> list[Message]:
    """Return messages for a template that knows no tools: all is told in words.

    JSON from outside has its angle brackets escaped, so that it cannot close what it stands in.
    """
    told: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            result = {"name": message.get("name", ""), "content": content}
            role, content = "user", f"<tool_response>\n{_escaped(result)}\n</tool_response>"
        for call in message.get("tool_calls", ()):
            function = json.dumps(call["function"], ensure_ascii=False)
            content = f"{content}\n<tool_call>\n{function}\n</tool_call>".lstrip("\n")
        if told and role == told[-1]["role"] == "user":  # templates want roles to alternate
            told[-1] = {"role": role, "content": f"{told[-1]['content']}\n{content}"}
        else:
            told.append({"role": role, "content": content})
    if not tools:
        return told
    text = EXPLANATION.format(tools="\n".join(_escaped(described(tool)) for tool in tools))
    first = told[0] if told else {"role": "user", "content": ""}
    if first["role"] == "system":
        return [{"role": "system", "content": f"{first['content']}\n\n{text}"}, *told[1:]]
    if system:
        return [{"role": "system", "content": text}, *told]
    if first["role"] == "user":
        return [{"role": "user", "content": f"{text}\n\n{first['content']}"}, *told[1:]]
    return [{"role": "user", "content": text}, *told]


def _escaped(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
