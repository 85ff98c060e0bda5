"""The models of a [result]: of what the model decides of a row, and of what is published."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from agentd.config.columns import Column
from agentd.task_agent.found import CANDIDATE_CHARACTERS, ROWS_MAX

TITLE_MAX, MARKDOWN_MAX = 200, 20_000  # characters of a result's title, and of its text
FORBID = ConfigDict(extra="forbid")

Columns = Mapping[str, Column]


class NoColumn(BaseModel):
    """Of a Done by which nothing is said."""

    model_config = FORBID


def asked_model(columns: Columns) -> type[BaseModel]:
    """Return the model of the decision in which the model fills its columns in."""
    asked = {name: _asked(column) for name, column in columns.items() if column.asked}
    return create_model("AskedColumns", __config__=FORBID, **asked) if asked else NoColumn


def _asked(column: Column) -> Any:
    about = " ".join(column.description.replace("*/", "").split()) or None
    low, high = column.bounds
    match column.kind:
        case "labels":
            return Literal[column.labels], Field(description=about)
        case "pick":
            return str, Field(description=about, max_length=CANDIDATE_CHARACTERS)
    match column.type:
        case "integer":
            return int, Field(description=about, ge=low, le=high)
        case "boolean":
            return bool, Field(description=about)
    return str, Field(description=about, max_length=high)


def payload_model(columns: Columns, *, rows: bool, interests: tuple[str, ...]) -> type[BaseModel]:
    """Return the model of what is published: title, text, and rows or the columns themselves."""
    inner: dict[str, Any] = {name: (_given(column), None) for name, column in columns.items()}
    inner["unsure"] = (list[str], [])
    if interests:
        inner |= {"interest": (Literal[interests] | None, None), "rank": (int, Field(ge=1))}
    head: dict[str, Any] = {
        "title": (str, Field(min_length=1, max_length=TITLE_MAX)),
        "text": (str, Field(max_length=MARKDOWN_MAX)),
    }
    if not rows:
        return create_model("TaskReport", __config__=FORBID, **head, **inner)
    row: Any = create_model("ReportedRow", __config__=FORBID, **inner)
    listed = (list[row], Field(max_length=ROWS_MAX))
    return create_model("TaskReport", __config__=FORBID, **head, rows=listed, more=(int, 0))


def _given(column: Column) -> Any:
    """Return the type of a column's value; null is what nobody came to choose."""
    if column.known:
        return Literal[column.known] | None
    kinds: Mapping[Any, Any] = {"integer": int | None, "boolean": bool | None}
    if column.kind == "from":
        return str | int | float | bool | None
    return kinds.get(column.type, str | None)
