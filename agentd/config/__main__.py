"""`python -m agentd.config DIR`: write what is told of the configuration files, from their models.

Into DIR come the JSON Schemas of both kinds of files. Where DIR has a README.md, its tables of
keys are written anew, each between the comments `<!-- keys of FILE -->` and `<!-- end -->`.
"""

import json
import re
import sys
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentd.config.agent import AgentConfig
from agentd.config.daemon import DaemonConfig
from agentd.config.duration import written
from agentd.config.toml import Strict

TABLES: dict[str, type[BaseModel]] = {
    "agents.d/NAME.toml": AgentConfig,
    "agentd.toml": DaemonConfig,
}
TABLE = re.compile(r"(?<=<!-- keys of )(?P<file>\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
PAGE = "README.md"


def schemas() -> dict[str, str]:
    """Return the JSON Schema files shipped beside the configuration, by file name.

    Editors use them (`#:schema ../agent.schema.json`).
    """
    models: dict[str, type[BaseModel]] = {
        "agent.schema.json": AgentConfig,
        "agentd.schema.json": DaemonConfig,
    }
    return {
        name: json.dumps(model.model_json_schema(), indent=2) + "\n"
        for name, model in models.items()
    }


def page(text: str) -> str:
    """Return a page with its tables of keys as the models have them.

    Raises:
        KeyError: the page marks the table of a file that has no model.
    """

    def table(found: re.Match[str]) -> str:
        rows = (f"| `{key}` | {default} | {about} |\n" for key, default, about in _keys(found[1]))
        return found[1] + found[2] + "| key | default | meaning |\n|---|---|---|\n" + "".join(rows)

    return TABLE.sub(table, text)


def _keys(file: str) -> Iterator[tuple[str, str, str]]:
    """Yield each key of a file, dotted, with its default and its description."""
    tables: list[tuple[str, type[BaseModel]]] = [("", TABLES[file])]
    while tables:
        prefix, model = tables.pop(0)
        for name, field in model.model_fields.items():
            inner, name = field.annotation, prefix + name
            if typing.get_origin(inner) is dict and _is_table(typing.get_args(inner)[1]):
                inner, name = typing.get_args(inner)[1], f"{name}.NAME"
            given = [one for one in typing.get_args(inner) if one is not type(None)]
            if len(given) == 1 and _is_table(given[0]):  # a table that may be left out
                inner = given[0]
            if _is_table(inner):
                tables.append((f"{name}.", inner))
            else:
                yield name, _default(field), (field.description or "").replace("|", "\\|")


def _is_table(annotation: typing.Any) -> typing.TypeGuard[type[Strict]]:
    return isinstance(annotation, type) and issubclass(annotation, Strict)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return f"`{json.dumps(written(value) if isinstance(value, timedelta) else value)}`"


def main(folder: Path) -> None:
    """Write the files of `folder`."""
    for name, text in schemas().items():
        (folder / name).write_text(text)
    if (file := folder / PAGE).exists():
        file.write_text(page(file.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
