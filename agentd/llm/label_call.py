"""A chat call that asks our own model server for one label, and nothing else."""

from collections.abc import Sequence
from typing import Any

from agentd.llm.decision import Message


def label_call(
    messages: Sequence[Message],
    field: str,
    labels: Sequence[str],
    *,
    max_tokens: int,
    words: bool = False,
) -> dict[str, Any]:
    """Return its body. The answer is `{"tool":"done","FIELD":"LABEL"}`.

    `words`: what the labels have as words is told and counts, not what they have as JSON.
    """
    schema = {
        "type": "object",
        "properties": {
            "tool": {"const": "done"},
            field: {"type": "string", "enum": list(labels)},
        },
        "required": ["tool", field],
        "additionalProperties": False,
    }
    form = {"name": "decision", "strict": True, "schema": schema}
    return {
        "messages": list(messages),
        "temperature": 0,
        "max_tokens": max_tokens,
        "response_format": {"type": "json_schema", "json_schema": form},
        "agentd_labels": {field: dict.fromkeys(labels, 0.0)},
        "agentd_label_words": words,
    }
