"""Which labels of a result a person may correct by a click, to what, and what they said before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.config.agent import AgentConfig
from agentd.config.toml import read_toml
from agentd.errors import ConfigError
from agentd.task_agent.label_values import INTEREST, LABEL, NONE, label_values

Examples = Mapping[str, Mapping[str, Any]]


def example_name(event_id: int, row: int | None, field: str) -> str:
    """Return the name of the case that a correction becomes."""
    return f"event {event_id}{f', row {row}' if row else ''}: {field}"


def examples_in(file: Path) -> Examples:
    """Return by name what would have been right; nothing of a file that is wrong or not there."""
    try:
        cases = read_toml(file).get("case", [])
        return {str(case["name"]): dict(case["result"]) for case in cases if "result" in case}
    except (ConfigError, KeyError, TypeError, ValueError):  # `agentd eval` says why
        return {}


def corrections(
    config: AgentConfig,
    event_id: int,
    payload: Mapping[str, Any],
    examples: Examples,
    *,
    most: int,
) -> list[dict[str, Any]]:
    """Return the first rows of a result that have labels, each with its fields and their values.

    `row` is its number, the first is 1; null where the result is one row itself. `about` tells a
    person which it is. Of a field `said` is what they corrected it to, or null. An agent in code
    has none.
    """
    values = label_values(config)
    rows = payload.get("rows")
    numbered = enumerate(rows, 1) if isinstance(rows, list) else [(None, payload)]
    found = []
    for number, row in numbered:
        fields = _fields(row, values) if isinstance(row, Mapping) else []
        for field in fields:
            said = examples.get(example_name(event_id, number, field["name"]), {})
            field["said"] = said.get(field["name"])
        if fields:
            texts = (v for k, v in row.items() if isinstance(v, str) and k not in values)
            about = next(texts, "") if number else ""
            found.append({"row": number, "about": about, "fields": fields})
        if len(found) == most:
            break
    return found


def _fields(row: Mapping[str, Any], values: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the labels of a row; a value that is none of its field's by now is left out."""
    unsure = row.get("unsure")
    fields = []
    for name, known in values.items():
        value = row.get(name)
        if name == INTEREST and name in row and value is None:
            value = NONE
        if value in known:
            doubt = unsure is True if name == LABEL else isinstance(unsure, list) and name in unsure
            fields.append({"name": name, "value": value, "values": [*known], "unsure": doubt})
    return fields
