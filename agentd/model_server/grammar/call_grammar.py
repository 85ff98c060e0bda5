"""The grammar of an answer that may call a tool, as llguidance reads it (a variant of Lark).

Text is anything but what begins a call. What begins a call goes on as the call of one of the tools,
and nothing follows its arguments.
"""

import json
import re
from collections.abc import Mapping, Sequence

from agentd.json_schema.bounds import Schema
from agentd.model_server.tool_calls import MARKS, Form

ANYTHING = "/(?s:.*)/"


def write(
    form: Form,
    tools: Mapping[str, Schema],
    answer: Schema | None,
    *,
    required: bool,
    silent: Sequence[int],
    written: Mapping[str, int],
) -> str:
    """Return the grammar.

    Args:
        form: how a call is written.
        tools: the schemas of the arguments, by the name of the tool; none: no call is legal.
        answer: what else is legal: the JSON of a schema. None: text.
        required: whether nothing but a call is legal.
        silent: markers that text may hold: no text spells them.
        written: tokens by what stands for them in `form`: a mark, or the marker's text.
    """
    lines = ["%llguidance {}"]
    for number, (name, schema) in enumerate(tools.items()):
        lines.append(f"tool{number}: {_sequence(name + form.between, written)} {_json(schema)}")
    named = "(" + " | ".join(f"tool{number}" for number in range(len(tools))) + ")"
    call = f"{_sequence(form.before, written)} {named}"
    if required:
        ways = [call]
    elif answer is not None:
        lines.append(f"answer: {_json(answer)}")
        ways = ["answer", call] if tools else ["answer"]
    else:
        ways = _text(form, silent, written, lines)
        if not tools:
            ways = ways[:1]
        elif form.trigger:
            rest = _sequence(form.before[len(form.trigger) :], written)
            ways = [ways[0], *(f"{begun} {rest} {named}" for begun in ways[1:])]
        else:
            ways.append(call)
    return "\n".join([*lines, f"start: {' | '.join(ways)}"])


def _text(
    form: Form, silent: Sequence[int], written: Mapping[str, int], lines: list[str]
) -> list[str]:
    """Return how free text is written, and then all ways of text up to a call's beginning."""
    ours = {number for text, number in written.items() if text in form.before + form.between}
    others = ",".join(str(number) for number in silent if number not in ours)
    markers = f"(TEXT <[{others}]>)* " if others else ""
    begun = []
    if form.trigger in written:
        begun.append(f"{markers}TEXT <[{written[form.trigger]}]>")
    if form.trigger in MARKS:
        lines.append(f"TEXT: {ANYTHING}")
    elif form.trigger:
        lines.append(f"TEXT: {ANYTHING} & ~/(?s:.*){_pattern(form.trigger)}(?s:.*)/")
        lines.append(f"spelled[lazy]: {ANYTHING} {json.dumps(form.trigger)}")
        begun.append(f"{markers}spelled")
    else:
        spelled = re.split(f"[{''.join(MARKS)}]", form.before)[0]
        lines.append(f"TEXT: {ANYTHING} & ~/{_pattern(spelled)}(?s:.*)/")
    return [f"{markers}TEXT", *begun]


def _sequence(text: str, written: Mapping[str, int]) -> str:
    """Write a text as terminals, and what stands for tokens in it as these."""
    if not written:
        return json.dumps(text) if text else ""
    names = "|".join(re.escape(name) for name in sorted(written, key=len, reverse=True))
    parts = re.split(f"({names})", text)
    return " ".join(
        f"<[{written[part]}]>" if at % 2 else json.dumps(part)
        for at, part in enumerate(parts)
        if part
    )


def _pattern(text: str) -> str:
    """Write a text as a regular expression."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _json(schema: Schema) -> str:
    return f"%json {json.dumps(schema)}"
