"""Which labels of a result a person may correct by a click, and to what."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.config.agent import AgentConfig
from agentd.task_agent.label_values import INTEREST, LABEL, NONE, label_values


def corrections(config: AgentConfig, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result that have labels, each with its fields and their values.

    `row` is its number, the first is 1; null where the result is one row itself. `about` tells a
    person which it is. Nothing of an agent in code.
    """
    values = label_values(config)
    rows = payload.get("rows")
    numbered = enumerate(rows, 1) if isinstance(rows, list) else [(None, payload)]
    found = [_row(number, row, values) for number, row in numbered if isinstance(row, Mapping)]
    return [row for row in found if row["fields"]]


def _row(
    number: int | None, row: Mapping[str, Any], values: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    fields = []
    for name, known in values.items():
        value = row.get(name)
        if name == INTEREST and name in row and value is None:
            value = NONE
        if value in known:
            unsure = name in row.get("unsure", ()) if name != LABEL else row.get("unsure") is True
            fields.append({"name": name, "value": value, "values": [*known], "unsure": unsure})
    texts = (v for k, v in row.items() if isinstance(v, str) and k not in values)
    return {"row": number, "about": next(texts, "") if number else "", "fields": fields}
