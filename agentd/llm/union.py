"""The typed union that an agent's BAML function returns: its schema, its prompt, its parser."""

import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from agentd.errors import ConfigError
from agentd.json_schema.bounds import Schema
from agentd.llm.decision import Candidates, Choice, Message
from agentd.llm.decision_schema import member_schema, union_schema
from agentd.llm.mcp_tools import McpUnion
from agentd.mcp.definitions import McpTool
from agentd.states import LABELS_MAX, LABELS_MIN

# Stands for the log while BAML renders. The log itself is put in afterwards, by us: BAML finds its
# roles by a magic text in the rendered prompt, so a log that held that text could forge a system
# message (0.226.3, tests/test_llm.py).
LOG_HERE = "<agentd-log-here/>"
BAML_TYPES = {"string": "string", "integer": "int", "number": "float", "boolean": "bool"}
ANSWER_MAX = 20_000  # characters of an answer that are parsed at all
# Of brackets in an answer that is no JSON: BAML looks for JSON in prose in more than quadratic time
# (0.226.3: 48 opening brackets take 0.1 s, 100 take 3 s, 500 minutes; no thread runs meanwhile).
BRACKETS_MAX = 48


class Malformed(Exception):
    """An answer that is none of the decisions asked for; the text says why."""


@dataclass(frozen=True)
class Client:
    """A generated client: its functions, types and type builder, and BAML's error."""

    b: Any
    types: ModuleType
    type_builder: type[Any]
    error: type[Exception]


class Union:
    """The typed union that one BAML function returns: its schema, its prompt, its parser."""

    def __init__(
        self,
        client: Client,
        function: str,
        members: Iterable[str] | None,
        arguments: Mapping[str, type[BaseModel]],
        mcp: Mapping[str, McpTool] | None = None,
    ) -> None:
        self._client = client
        self._function = function
        self._arguments = arguments
        self._where = f"function {function}"
        method = getattr(self._client.b, function, None)
        # The client has other methods, such as `request`; its parser has the functions alone.
        if method is None or not hasattr(self._client.b.parse, function):
            raise ConfigError(
                f"no BAML function {function}",
                where=self._where,
                hint="declare it, or correct the name in the agent's `function`",
            )
        classes = list(_classes(method.__annotations__["return"], client.types, self._where))
        self._options: dict[str, Any] = {}
        if len(classes) == 1 and _is_dynamic(classes[0]):
            classes = self._chosen(members or ())
        self.members: dict[str, type[BaseModel]] = {c.__name__: c for c in classes}
        self._mcp = McpUnion({n: t for n, t in (mcp or {}).items() if n in self.members})
        self._schemas = {
            name: self._mcp.schema(name)
            if name in self._mcp
            else member_schema(cls, arguments.get(name))
            for name, cls in self.members.items()
        }
        self._names = {s["properties"]["tool"]["const"]: n for n, s in self._schemas.items()}

    def _chosen(self, members: Iterable[str]) -> list[type[BaseModel]]:
        """Give the dynamic class its union; its members then parse to dicts."""
        types = self._client.types
        names = list(members)
        missing = [name for name in names if not hasattr(types, name)]
        if missing or not names:
            raise ConfigError(
                f"no decision class {', '.join(missing)}" if missing else "an empty union",
                where=self._where,
                hint="name classes of tools.baml, such as ReadFile",
            )
        tb = self._client.type_builder()
        for name in names:
            if _is_dynamic(getattr(types, name)):
                _add_fields(tb, name, self._arguments.get(name))
        # What is nothing but its name is not the model's to say where there is more.
        told = [name for name in names if not self._is_bare(name)] or names
        union = tb.union([getattr(tb, name).type() for name in told])
        tb.Choice.add_property("decision", union)
        self._options = {"baml_options": {"tb": tb}}
        return [getattr(types, name) for name in names]

    def _is_bare(self, name: str) -> bool:
        """Whether a class of a dynamic union has no field but its tool's name."""
        model, fields = getattr(self._client.types, name), self._arguments.get(name)
        return _is_dynamic(model) and not (fields and fields.model_fields)

    def schema(self, names: Iterable[str], candidates: Candidates | None = None) -> Schema:
        """Return the mask's schema for the classes of `names`, in the union's order."""
        wanted = set(names)
        return union_schema(
            {n: _narrowed(n, s, candidates) for n, s in self._schemas.items() if n in wanted}
        )

    def tool(self, name: str) -> str:
        """Return the tool's name of a class, as answers write it."""
        return str(self._schemas[name]["properties"]["tool"]["const"])

    def certain(self, names: frozenset[str], candidates: Candidates | None = None) -> str | None:
        """Return the one answer that the classes of `names` leave, None where there are others."""
        if len(names) != 1:
            return None
        properties = self.schema(names, candidates)["properties"]
        if any("const" not in schema for schema in properties.values()):
            return None
        answer = {name: schema["const"] for name, schema in properties.items()}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))

    def labels(self, field: str) -> list[str]:
        """Return the labels of a field "Class.field" in their order.

        Raises:
            ConfigError: there is no such class or field, or it is no enum of text.
        """
        name, _, key = field.partition(".")
        if name not in self.members:
            what, hint = f"the union has no {name}", f"it has {', '.join(sorted(self.members))}"
            raise ConfigError(f"`labels` names {field!r}, but {what}", hint=hint)
        properties = self._schemas[name]["properties"]
        schema = properties.get(key, {})
        enum = schema.get("enum", ())
        if {"type": "null"} in schema.get("anyOf", ()):
            raise ConfigError(
                f"`labels` names {field!r}, which may be null, and null is no label",
                hint='write one for it, such as "none", in the .baml file',
            )
        if key == "tool" or not enum or not all(isinstance(label, str) for label in enum):
            others = [k for k, one in properties.items() if k != "tool" and "enum" in one]
            raise ConfigError(
                f"`labels` names {field!r}, which is no enum of text",
                hint=f"{name} has {', '.join(others) or 'none'}; an enum is written "
                'kind "bug" | "docs" in the .baml file',
            )
        if not LABELS_MIN <= len(enum) <= LABELS_MAX:
            raise ConfigError(
                f"`labels` names {field!r}, which has {len(enum)} labels",
                hint=f"{LABELS_MIN} to {LABELS_MAX} can be told apart",
            )
        return list(enum)

    def frame(self, given: Mapping[str, Any]) -> list[Message]:
        """Return the rendered messages up to the place of the log.

        Raises:
            ConfigError: the template fails, or does not end with the log.
        """
        render = getattr(self._client.b.request, self._function)
        try:
            request = render(context=LOG_HERE, **given, **self._options)
        except (TypeError, self._client.error) as error:
            raise ConfigError(
                f"the prompt cannot be rendered: {_first_line(error)}",
                where=self._where,
                hint="its arguments are context, done and what prompt_arguments() returns",
            ) from error
        messages: list[Message] = [
            {"role": m["role"], "content": _text(m["content"])}
            for m in request.body.json()["messages"]
        ]
        whole = json.dumps(messages, ensure_ascii=False)
        if whole.count(LOG_HERE) != 1 or not messages[-1]["content"].endswith(LOG_HERE):
            raise ConfigError(
                "the prompt must hold `context` once, at its very end",
                where=self._where,
                hint='end it with {{ _.role("user") }} {{ context }}',
            )
        if str(given["done"]).strip() not in "".join(m["content"] for m in messages):
            raise ConfigError(
                "the prompt does not say what done looks like",
                where=self._where,
                hint="write {{ done }} into its first part",
            )
        messages[-1]["content"] = messages[-1]["content"].removesuffix(LOG_HERE)
        return [{**m, "content": self._mcp.put_in(m["content"])} for m in messages]

    def parse(
        self, text: str, names: frozenset[str], candidates: Candidates | None = None
    ) -> tuple[str, dict[str, Any], Any]:
        """Return the class's name, its fields without `tool`, and the typed value.

        Raises:
            Malformed: it is none of `names`, or a field holds none of its `candidates`.
        """
        name, args, value = self._parsed(text, names)
        for key, of in (candidates or {}).items():
            field = key.partition(".")[2]
            if key == f"{name}.{field}" and args.get(field) not in (of or ("",)):
                raise Malformed(f"{key} is none of what may stand there")
        return name, args, value

    def _parsed(self, text: str, names: frozenset[str]) -> tuple[str, dict[str, Any], Any]:
        _plausible(text)
        for name in filter(self._is_bare, names & self.members.keys()):
            if self._options and text == self.certain(frozenset({name})):
                return name, {}, Choice(name, {})
        try:
            found = self._mcp.read(text)
        except ValueError as error:
            raise Malformed(str(error)) from error
        if found is not None:
            self._check_allowed(found[0], names)
            return *found, Choice(*found)
        try:
            value = getattr(self._client.b.parse, self._function)(text, **self._options)
            if self._options:
                fields = dict(value.decision)
                name = self._names[fields["tool"]]
                value = self.members[name].model_validate(fields)
        except (self._client.error, ValidationError, KeyError, TypeError, ValueError) as error:
            raise Malformed("it is none of the JSON objects asked for") from error
        name = type(value).__name__
        self._check_allowed(name, names)
        args = value.model_dump(mode="json", exclude={"tool"})
        self._narrow(name, args)
        return name, args, Choice(name, args) if self._options else value

    @staticmethod
    def _check_allowed(name: str, names: frozenset[str]) -> None:
        if name not in names:
            raise Malformed(f"{name} is not allowed now")

    def _narrow(self, name: str, args: Mapping[str, Any]) -> None:
        """Hold the fields to the Pydantic model, for servers without a mask."""
        model = self._arguments.get(name)
        if model is None:
            return
        fields = model.model_fields
        given = {
            key: value
            for key, value in args.items()
            if value is not None or (key in fields and fields[key].is_required())
        }
        try:
            model.model_validate({key: given[key] for key in given if key in fields})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Malformed(f"{name}.{place}: {first['msg']}") from error


def _classes(annotation: Any, types: ModuleType, where: str) -> Iterator[type[BaseModel]]:
    """Yield the classes of a generated return annotation.

    Not by typing.get_type_hints: `typing` caches Union["types.A", "types.B"] and each of its
    references keeps what it first meant, so a second client would get the first one's classes.
    """
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        annotation = getattr(types, annotation.rpartition(".")[2], None)
        yield from _classes(annotation, types, where)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_args(annotation):
        for item in typing.get_args(annotation):
            yield from _classes(item, types, where)
    else:
        raise ConfigError(
            "returns something else than decision classes",
            where=where,
            hint="return a union of classes: ReadFile | Done",
        )


def _plausible(text: str) -> None:
    """Refuse what BAML would parse for minutes."""
    if len(text) > ANSWER_MAX:
        raise Malformed(f"it is longer than {ANSWER_MAX} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if text.count("[") + text.count("{") > BRACKETS_MAX:
            raise Malformed("it is no JSON") from None
    else:
        if not isinstance(value, dict):
            raise Malformed("it is no JSON object")


def _is_dynamic(cls: type[BaseModel]) -> bool:
    return cls.model_config.get("extra") == "allow"


def _add_fields(tb: Any, name: str, model: type[BaseModel] | None) -> None:
    """Give a `@@dynamic` class the fields of a model of its arguments, for prompt and parser."""
    schemas = model.model_json_schema()["properties"] if model else {}
    for key, schema in schemas.items():
        literals = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        kinds = [tb.literal_string(text) for text in literals]
        kind = getattr(tb, BAML_TYPES.get(schema.get("type"), "string"))()
        kind = (kinds[0] if len(kinds) == 1 else tb.union(kinds)) if kinds else kind
        field = getattr(tb, name).add_property(key, kind)
        if about := schema.get("description"):
            field.description(about)


def _narrowed(name: str, schema: Schema, candidates: Candidates | None) -> Schema:
    """Return a class's schema with only the candidates in their fields."""
    found = dict(schema["properties"])
    for key, of in (candidates or {}).items():
        cls, _, field = key.partition(".")
        if cls == name:
            found[field] = {"enum": list(of)} if len(of) > 1 else {"const": next(iter(of), "")}
    return {**schema, "properties": found}


def _text(content: Any) -> str:
    """Return a message's text; BAML writes a list of parts for some providers."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
