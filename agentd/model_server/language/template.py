"""A model's chat template: renders conversations so that no content can pose as a marker.

What a person, a file or a tool says can look like the template's own markers, such as
`<|im_end|>`. Here it cannot become one: the template's own words are traced through all that it
does with them (`traced.py`), and whatever else comes out is text. A template sees the real texts,
so it finds, compares, sorts, splits and counts them as its authors meant.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

from agentd.model_server.calls import Refused
from agentd.model_server.language.traced import Traced, join, own, runs
from agentd.model_server.protocols import Message
from agentd.model_server.tool_calls import OfferedTool

Piece = tuple[str, bool]  # a text, and whether it is the template's own

# How templates are told that no thought is wanted; each knows one of these or none.
WITHOUT_THOUGHT = {"enable_thinking": False, "thinking": False, "reasoning": False}


class Template:
    """A compiled chat template. Raises jinja2.TemplateError if it cannot be compiled.

    `tool_use` is the source of another one, for conversations with tools.
    """

    def __init__(
        self, source: str, names: Mapping[str, str], *, tool_use: str | None = None
    ) -> None:
        environment = _Environment()
        self._plain = environment.from_string(source)
        self._tool_use = environment.from_string(tool_use) if tool_use else self._plain
        self._names = {key: own(name) for key, name in names.items()}

    def render(
        self, messages: Sequence[Message], tools: Sequence[OfferedTool] = (), *, answer: bool = True
    ) -> list[Piece]:
        """Render up to where the answer begins; without `answer` to the last message's end.

        A message is role and content, and where it has them `tool_calls`, `tool_call_id`, `name`.

        Raises:
            Refused: the template does not take these messages.
        """
        calls = any(message["role"] == "tool" or "tool_calls" in message for message in messages)
        template = self._tool_use if tools or calls else self._plain
        given = {
            **self._names,
            **WITHOUT_THOUGHT,
            "messages": [{**message, "role": own(message["role"])} for message in messages],
            "documents": None,
            "add_generation_prompt": answer,
        }
        shown = [described(tool) for tool in tools] or None
        try:
            try:
                rendered = template.render(given, tools=shown)
            except jinja2.UndefinedError:  # it reads descriptions that were not given
                rendered = template.render(given, tools=_with_descriptions(shown))
        except Exception as error:  # a template is a program: it raises what it likes
            raise Refused(
                f"the model's chat template refuses: {error}", param="messages"
            ) from error
        return list(runs(rendered))


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The settings that Hugging Face's own renderer uses; the template's own words are traced."""

    concat = staticmethod(join)  # of what templates and macros write

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.filters.update(tojson=_to_json, join=_join, own=_own, joined=_joined)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        parsed = super()._parse(source, name, filename)
        _Tracing().generic_visit(parsed)
        return parsed


class _Tracing(jinja2.visitor.NodeTransformer):
    """Has each text that stands in a template traced from where it is used."""

    def visit_Const(self, node: jinja2.nodes.Const) -> jinja2.nodes.Expr:
        """Trace a literal."""
        return _filtered("own", node) if isinstance(node.value, str) else node

    def visit_TemplateData(self, node: jinja2.nodes.TemplateData) -> jinja2.nodes.Expr:
        """Trace what stands outside of the tags."""
        return _filtered("own", jinja2.nodes.Const(node.data))

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Expr:
        """Let `a ~ b` be joined by us: jinja2's own way ends in a plain string."""
        self.generic_visit(node)
        return _filtered("joined", jinja2.nodes.List(node.nodes))


def _filtered(name: str, node: jinja2.nodes.Expr) -> jinja2.nodes.Expr:
    return jinja2.nodes.Filter(node, name, [], [], None, None)


class _Generation(jinja2.ext.Extension):
    """Takes `{% generation %}`, which marks what a model learns from; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own way

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def described(tool: OfferedTool) -> dict[str, Any]:
    """Return a tool in OpenAI's shape, which templates expect."""
    about = {"description": tool.description} if tool.description else {}
    function = {"name": tool.name, **about, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _with_descriptions(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return tools whose functions and parameters all have a description, if an empty one."""
    told = []
    for tool in tools or ():
        function = {"description": "", **tool["function"]}
        properties = {
            key: {"description": "", **value} if isinstance(value, dict) else value
            for key, value in function["parameters"].get("properties", {}).items()
        }
        parameters = {**function["parameters"], "properties": properties}
        told.append({**tool, "function": {**function, "parameters": parameters}})
    return told


# With a context jinja2 does not work a literal out beforehand, when it would become a plain string.
@jinja2.pass_context
def _own(_context: jinja2.runtime.Context, text: str) -> Traced:
    return own(text)


@jinja2.pass_context
def _joined(_context: jinja2.runtime.Context, parts: Sequence[Any]) -> str:
    return join(parts)


@jinja2.pass_eval_context
def _join(
    context: jinja2.nodes.EvalContext, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    """Join as jinja2's own filter of this name, but traced."""
    between = d if isinstance(d, Traced) else Traced(d)
    return jinja2.filters.sync_do_join(context, value, between, attribute)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as Hugging Face's renderer does; all of it is text."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
