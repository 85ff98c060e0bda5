"""Labels: the server chooses them by one token, after offsets, and says how likely each was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from tests.serving import Serving, serving

KINDS = ["bug", "docs", "feature"]


def member(tool: str, **fields: Any) -> dict[str, Any]:
    properties = {"tool": {"const": tool}, **fields}
    return {"type": "object", "properties": properties, "required": list(properties)}


DONE = member(
    "done",
    title={"type": "string", "maxLength": 8},
    kind={"enum": KINDS},
    size={"type": "integer", "minimum": 0, "maximum": 9},
)
UNION = {"anyOf": [DONE, member("dig", path={"type": "string", "maxLength": 8})]}
ZERO = dict.fromkeys(KINDS, 0.0)


def asked(schema: object, **more: Any) -> dict[str, Any]:
    """Return what a request says of an answer that fits a schema."""
    form = {"name": "answer", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": form}, **more}


@pytest.fixture(scope="module")
def language(tiny_model: Path) -> ModelLanguage:
    return ModelLanguage(tiny_model)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Serving]:
    def load(language: Any) -> MlxEngine:
        return MlxEngine(tiny_model, language, fast_blas=True)

    with serving(load, lambda: ModelLanguage(tiny_model)) as server:
        yield server


def labelled(language: ModelLanguage, schema: object, labels: Any) -> Any:
    return language.labelled(language.mask(schema), schema, labels)


def choice_of(server: Serving, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an answer, read, and what its choice says."""
    status, answer = server.chat(max_tokens=200, **more)
    assert status == 200, answer
    (choice,) = answer["choices"]
    return json.loads(choice["message"]["content"]), choice
