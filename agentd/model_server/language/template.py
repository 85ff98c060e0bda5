"""A model's chat template: renders conversations so that no content can pose as a marker.

What a person, a file or a tool says can look like the template's own markers, such as
`<|im_end|>`. Here it cannot become one: every text that comes from outside is replaced by a
placeholder, the template is rendered, and only then the texts are put in, marked as not trusted.
"""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from agentd.json_schema.bounds import ANNOTATIONS, BY_TYPE, KEYWORDS
from agentd.model_server.calls import Message, Refused
from agentd.model_server.tool_calls import OfferedTool

Piece = tuple[str, bool]  # a text, and whether it is the template's own

# Words that templates look for in a tool's schema. None can be a part of a marker.
OPEN_WORDS = (
    ANNOTATIONS | KEYWORDS | BY_TYPE.keys() | {"function", "name", "parameters", "arguments"}
)


class Template:
    """A compiled chat template. Raises jinja2.TemplateError if it cannot be compiled."""

    def __init__(self, source: str, names: dict[str, str]) -> None:
        # The settings that Hugging Face's own renderer uses.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = _to_json
        self._template = environment.from_string(source)
        self._names = names

    def render(
        self, messages: Sequence[Message], tools: Sequence[OfferedTool] = (), *, answer: bool = True
    ) -> list[Piece]:
        """Render up to where the answer begins; without `answer` to the last message's end.

        A message is role and content, and where it has them `tool_calls`, `tool_call_id`, `name`.

        Raises:
            Refused: the template does not take these messages.
        """
        hidden = Hidden()
        try:
            rendered = self._template.render(
                messages=[_shown(message, hidden) for message in messages],
                tools=[hidden.value(described(tool)) for tool in tools] or None,
                documents=None,
                add_generation_prompt=answer,
                enable_thinking=False,
                **self._names,
            )
        except Exception as error:  # a template is a program: it raises what it likes
            raise Refused(
                f"the model's chat template refuses: {error}", param="messages"
            ) from error
        return list(hidden.pieces(rendered))


class _Generation(jinja2.ext.Extension):
    """Takes `{% generation %}`, which marks what a model learns from; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own way

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _shown(message: Message, hidden: "Hidden") -> Message:
    """Return a message with all hidden but its role, and the ids of calls, which are our own."""
    shown = {"role": message["role"]}
    for key, value in message.items():
        if key == "tool_calls":
            shown[key] = [{**call, "function": hidden.value(call["function"])} for call in value]
        elif key not in ("role", "tool_call_id"):
            shown[key] = hidden.value(value)
        else:
            shown[key] = value
    return shown


def described(tool: OfferedTool) -> dict[str, Any]:
    """Return a tool in OpenAI's shape, which templates expect."""
    about = {"description": tool.description} if tool.description else {}
    function = {"name": tool.name, **about, "parameters": tool.parameters}
    return {"type": "function", "function": function}


class Hidden:
    """Texts from outside, and the placeholders that stand for them while rendering.

    A placeholder is random, so that no content can contain it, and of digits between private-use
    characters, so that no filter of a template changes it.
    """

    def __init__(self) -> None:
        self._nonce = str(secrets.randbelow(10**18))
        self._texts: list[str] = []

    def value(self, value: Any) -> Any:
        """Return a value with each text in it hidden, but for empty ones and words of schemas."""
        if isinstance(value, dict):
            return {self._text(key): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        return self._text(value) if isinstance(value, str) and value else value

    def pieces(self, rendered: str) -> Iterator[Piece]:
        """Yield what was rendered, with the texts back in their places."""
        mark = f"\ue000{self._nonce}\\.([0-9]+)\\.([0-9]+)\ue001"
        parts = re.split(mark, rendered)
        for at in range(0, len(parts), 3):
            if parts[at]:
                yield parts[at], True
            if at + 2 < len(parts):
                text = self._texts[int(parts[at + 1])]
                for _ in range(int(parts[at + 2])):
                    text = json.dumps(text, ensure_ascii=False)[1:-1]
                yield text, False

    def _text(self, text: str) -> str:
        if text in OPEN_WORDS:
            return text
        self._texts.append(text)
        return f"\ue000{self._nonce}.{len(self._texts) - 1}.0\ue001"


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as Hugging Face's renderer does; a hidden text inside learns of its escaping."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return re.sub(
        "\ue000([0-9]+\\.[0-9]+)\\.([0-9]+)\ue001",
        lambda found: f"\ue000{found[1]}.{int(found[2]) + 1}\ue001",
        text,
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
