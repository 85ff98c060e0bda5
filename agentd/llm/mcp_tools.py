"""MCP tools in an agent's union: what the prompt shows, what the mask lets through, what is read.

BAML cannot say every JSON Schema. So it knows of such a tool no more than its name, and a
placeholder where its arguments stand. After BAML rendered, we put in what the server says: then no
text of it can forge a role (see `union.LOG_HERE`). The mask and `checked` carry the schema itself.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentd.errors import ConfigError
from agentd.json_schema.bounds import Bounds, Schema, Unfit
from agentd.json_schema.document import Document
from agentd.json_schema.fitting import fits
from agentd.json_schema.reading import ShapeReader
from agentd.json_schema.writing import bounded
from agentd.llm.decision_schema import BOUNDS
from agentd.mcp.definitions import McpTool
from agentd.terminal import plain

PLACE = re.compile(r"""["']?<agentd-mcp/(?P<class>\w+)(?P<about>/about)?>["']?""")
ABOUT_BYTES = 800  # of an agent's descriptions: 400 tokens, counted as `baml.BYTES_PER_TOKEN` says
SHOWN_DEPTH = 4  # of objects in one another; deeper ones are shown as {...}
TYPES = {"integer": "int", "number": "float", "boolean": "bool"}  # as BAML writes them
ARGUMENTS = "arguments"  # the field of a decision that has them
OPEN = ("additionalProperties", "patternProperties", "anyOf", "oneOf", "allOf", "$ref", "if")


class McpUnion:
    """The MCP tools of one union, by class."""

    def __init__(self, tools: Mapping[str, McpTool]) -> None:
        self._tools = tools
        self._arguments = {name: arguments_schema(tool) for name, tool in tools.items()}
        self._names = {tool.name: name for name, tool in tools.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def schema(self, name: str) -> Schema:
        """Return the mask's schema of a decision."""
        arguments = _prefixed(self._arguments[name], f"{name}_")
        shared = {"$defs": arguments.pop("$defs")} if "$defs" in arguments else {}
        return {
            "type": "object",
            "properties": {
                "tool": {"const": self._tools[name].name, "type": "string"},
                ARGUMENTS: arguments,
            },
            "required": ["tool", ARGUMENTS],
            "additionalProperties": False,
            **shared,
        }

    def put_in(self, text: str) -> str:
        """Return a rendered prompt with what the servers say of their tools."""

        def told(place: re.Match[str]) -> str:
            name = place["class"]
            if name not in self._tools:
                return place[0]
            about = self._tools[name].about
            return about.get("", "") if place["about"] else _shown(self._arguments[name], about)

        return PLACE.sub(told, text)

    def read(self, text: str) -> tuple[str, dict[str, Any]] | None:
        """Return class and arguments of an answer that is one of these decisions, else None.

        Raises:
            ValueError: it is, and its arguments do not fit; the text says why.
        """
        answer = _json_object(text)
        name = self._names.get(str(answer.get("tool"))) if answer else None
        if name is None:
            return None
        return name, self._checked(name, answer.get(ARGUMENTS, {}))

    def _checked(self, name: str, given: Any) -> dict[str, Any]:
        """Return the arguments as the server takes them: exactly as they were answered.

        An optional one that is null is left out, where its schema does not have null.
        """
        schema = self._arguments[name]
        if not isinstance(given, dict):
            raise ValueError(f"{name}.{ARGUMENTS}: must be an object")
        if _fits(given, schema):
            return given
        needed = schema.get("required", ())
        told = {key: value for key, value in given.items() if value is not None or key in needed}
        if not _fits(told, schema):
            raise ValueError(f"{name}.{ARGUMENTS}: must be {_shown(schema)}")
        return told


def arguments_schema(tool: McpTool) -> Schema:
    """Return the bounded schema of a tool's arguments.

    Raises:
        ConfigError: no answer can be held to it.
    """
    given = dict(tool.definition["inputSchema"])
    if given.get("type") != "object":
        raise ConfigError(f"the arguments of {tool.name} are no object", hint=_HINT)
    if not given.get("properties") and not any(key in given for key in OPEN):
        given["additionalProperties"] = False  # else a model invents arguments
    try:
        return bounded(given, _bounds(tool)).schema
    except Unfit as error:
        raise ConfigError(
            f"no answer can be held to the arguments of {tool.name}: {error}", hint=_HINT
        ) from error


_HINT = "the server says so; leave this tool out"


def _bounds(tool: McpTool) -> Bounds:
    return replace(BOUNDS, string=tool.string_max)


def _fits(value: Any, schema: Schema) -> bool:
    try:
        return fits(ShapeReader(Document(schema, BOUNDS), BOUNDS), value, ("",))
    except Unfit:  # a pattern that cannot be told in time: the server looks itself
        return True
    except (RecursionError, OverflowError):
        return False


def _prefixed(node: Any, prefix: str) -> Any:
    """Return a schema whose definitions can stand beside those of others."""
    if isinstance(node, list):
        return [_prefixed(item, prefix) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _prefixed(value, prefix) for key, value in node.items()}
    if isinstance(node.get("$ref"), str):
        found["$ref"] = node["$ref"].replace("#/$defs/", f"#/$defs/{prefix}", 1)
    if "$defs" in node:
        found["$defs"] = {f"{prefix}{key}": value for key, value in found["$defs"].items()}
    return found


def _json_object(text: str) -> dict[str, Any]:
    """Return the JSON object of an answer, in prose or a fence as well; {} where there is none."""
    for part in (text, text[text.find("{") : text.rfind("}") + 1]):
        try:
            value = json.loads(part, parse_constant=_no_number)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else {}
    return {}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


# --- what the prompt shows -----------------------------------------------------------------------


def baml_source(tools: Iterable[McpTool]) -> str:
    """Return the BAML classes of tools."""
    lines = ["// Tools of MCP servers. What is shown of them is put in after rendering."]
    for tool in tools:
        place = f"<agentd-mcp/{tool.decision}"
        about = f' @description("{place}/about>")' if tool.about.get("") else ""
        lines += [
            f"class {tool.decision} {{",
            f'  tool "{tool.name}"{about}',
            f'  {ARGUMENTS} "{place}>"',
            "}",
        ]
    return "\n".join(lines) + "\n"


def described(tools: Sequence[McpTool]) -> list[McpTool]:
    """Return tools with what is shown of their descriptions: the tools' own before arguments'."""
    own = {(n, ""): tool.definition["description"] for n, tool in enumerate(tools)}
    arguments = {
        (n, key): schema.get("description", "")
        for n, tool in enumerate(tools)
        for key, schema in _properties(tool)
    }
    shown = _shared(own, ABOUT_BYTES)
    left = ABOUT_BYTES - sum(len(text.encode()) for text in shown.values())
    shown |= _shared(arguments, left)
    about: list[dict[str, str]] = [{} for _ in tools]
    for (n, key), text in shown.items():
        if text:
            about[n][key] = text
    return [replace(tool, about=of) for tool, of in zip(tools, about, strict=True)]


def _properties(tool: McpTool) -> list[tuple[str, Schema]]:
    named = tool.definition["inputSchema"].get("properties")
    pairs = named.items() if isinstance(named, dict) else ()
    return [(key, schema) for key, schema in pairs if isinstance(schema, dict)]


def _shared(texts: Mapping[tuple[int, str], Any], room: int) -> dict[tuple[int, str], str]:
    """Return cleaned texts of at most `room` bytes together: long ones are cut alike."""
    clean = {key: plain(" ".join(str(text).split())) for key, text in texts.items()}
    found = {}
    ordered = sorted(clean, key=lambda key: len(clean[key]))
    for at, key in enumerate(ordered):
        found[key] = _cut(clean[key].replace("*/", "* /"), room // (len(ordered) - at))
        room -= len(found[key].encode())
    return found


def _cut(text: str, room: int) -> str:
    data = text.encode()
    if len(data) <= room:
        return text
    return f"{data[: room - 3].decode(errors='ignore').rstrip()}..." if room > 16 else ""


def _shown(schema: Schema, about: Mapping[str, str] | None = None) -> str:
    """Return a bounded schema as the prompt shows it: types as BAML writes its own."""
    return _Signature(schema.get("$defs", {})).object(schema, about or {}, 0)


class _Signature:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def object(self, schema: Schema, about: Mapping[str, str], depth: int) -> str:
        needed = schema.get("required", ())
        parts = [
            (f"/* {about[name]} */" if about.get(name) else "")
            + json.dumps(plain(name), ensure_ascii=False)
            + ("" if name in needed else "?")
            + f":{self.type(inner, depth + 1)}"
            for name, inner in schema.get("properties", {}).items()
            if inner is not False
        ]
        if schema.get("patternProperties") or schema.get("additionalProperties"):
            parts.append("...")
        return f"{{{','.join(parts)}}}"

    def type(self, schema: Schema, depth: int) -> str:
        schema = self._definitions.get(schema.get("$ref", "").rpartition("/")[2], schema)
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            return "|".join(plain(json.dumps(value, ensure_ascii=False)) for value in values)
        if "anyOf" in schema:
            return "|".join(dict.fromkeys(self.type(one, depth) for one in schema["anyOf"]))
        kind = str(schema.get("type"))
        if kind == "object":
            return "{...}" if depth > SHOWN_DEPTH else self.object(schema, {}, depth)
        if kind == "array":
            if depth > SHOWN_DEPTH:
                return "[...]"
            items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
            inner = self.type(items, depth + 1)
            return f"({inner})[]" if "|" in inner else f"{inner}[]"
        return TYPES.get(kind, kind)
