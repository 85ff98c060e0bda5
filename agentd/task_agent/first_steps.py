"""The steps that an agent of configuration takes before its model is asked.

    first = [{ ReadFile = "{path}" }, { SearchText = { path = "~/notes", text = "TODO" } }]

A text is the tool's first field, a table all of them. `{name}` is that field of the event's
payload, and nothing else is ever replaced: what an event holds stays data.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agentd.config.suggest import did_you_mean
from agentd.config.toml import unknown_key
from agentd.config.wording import said
from agentd.errors import EventRefused
from agentd.events import Event
from agentd.mcp.definitions import decision_of
from agentd.tools.declared_tools import REGISTRY

FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
ASKS = "AskPerson"  # what a person says is for a model to read


def fields_of(steps: Iterable["FirstStep"]) -> set[str]:
    """Return the fields of an event without which steps cannot be taken."""
    return {field for step in steps for field in step.fields}


@dataclass(frozen=True)
class FirstStep:
    """One of them: a tool as its file names it, and its arguments with their `{name}`s."""

    tool: str
    args: Mapping[str, Any]

    @classmethod
    def of(cls, step: Mapping[str, Any]) -> "FirstStep":
        """Read one as its file has it.

        Raises:
            ValueError: it cannot be.
        """
        if len(step) != 1:
            raise ValueError('each step is one tool with its arguments: { ReadFile = "{path}" }')
        ((tool, args),) = step.items()
        if tool == ASKS:
            raise ValueError(f"{tool} is for the model to decide: name it in `tools`")
        if tool not in REGISTRY:
            if "." not in tool:
                raise ValueError(f"there is no tool {tool}{did_you_mean(tool, REGISTRY)}")
            if not isinstance(args, Mapping):
                raise ValueError(f"{tool}: write its arguments as a table: {{ name = ... }}")
            return cls(tool, args)
        model = REGISTRY[tool].args
        args = args if isinstance(args, Mapping) else {next(iter(model.model_fields)): args}
        for key in args.keys() - model.model_fields.keys():
            raise ValueError(f"{tool}.{key}: {unknown_key(key, model.model_fields)}")
        try:
            model.model_validate(args)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)
            # What is not known yet may be of any length and kind.
            wrong = [w for w in wrong if not FIELD.search(str(args.get(str(w["loc"][0]), "")))]
            if wrong:
                key = ".".join(map(str, wrong[0]["loc"]))
                raise ValueError(f"{tool}.{key}: {said(wrong[0])}") from error
        return cls(tool, args)

    @property
    def decision(self) -> str:
        """The tool's decision class."""
        return decision_of(self.tool)

    @property
    def fields(self) -> set[str]:
        """The fields of the event that stand in its arguments."""
        return set(FIELD.findall(json.dumps(dict(self.args))))

    def filled(self, event: Event) -> dict[str, Any]:
        """Return the arguments for an event.

        Raises:
            EventRefused: it has no such field.
        """
        found: dict[str, Any] = self._filled(dict(self.args), event)
        return found

    def _filled(self, value: Any, event: Event) -> Any:
        if isinstance(value, str):
            whole = FIELD.fullmatch(value)
            if whole is not None:
                return self._field(whole[1], event)
            return FIELD.sub(lambda match: str(self._field(match[1], event)), value)
        if isinstance(value, Mapping):
            return {key: self._filled(item, event) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._filled(item, event) for item in value]
        return value

    def _field(self, name: str, event: Event) -> str | int | float:
        value = event.payload.get(name)
        if not isinstance(value, str | int | float):
            what = "holds no text or number there" if name in event.payload else "has no such field"
            raise EventRefused(
                f"params.first: {self.tool}: {{{name}}}: the event {event.event_type} {what}",
                where=f"event {event.id}",
                hint=f"its fields are {', '.join(sorted(event.payload)) or 'none'}",
            )
        return value
