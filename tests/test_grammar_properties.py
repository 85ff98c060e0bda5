"""Whatever schema is accepted, whatever is sampled: the answer fits the schema as it was given."""

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agentd.model_server.calls import Refused
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.tool_calls import CallReader, OfferedTool, ToolChoice
from tests.schemas.drawn import documents
from tests.wanting import allows

EXAMPLES = 60  # raise for a longer search, which is then random
TOKENS_MAX = 150
FORMATS = jsonschema.FormatChecker(["uuid", "ipv4", "ipv6", "email"])  # a date may be no day
CLOSERS = '"}]'


@pytest.fixture(scope="module")
def language(tiny_model: Path) -> ModelLanguage:
    return ModelLanguage(tiny_model)


def walk(language: ModelLanguage, mask: Any, budget: int, choose: random.Random) -> bytes:
    """Sample at random, now and then what ends soonest; close when over budget."""
    tokens = list(mask.forced())
    closers = [
        language.grammars._single[sign] for sign in '"}]' if sign in language.grammars._single
    ]
    while not mask.finished and len(tokens) < budget:
        bits = mask.allowed()
        ready = [token for token in closers if allows(bits, token)]
        legal = [n for n in range(language.vocabulary) if allows(bits, n)]
        token = choose.choice(ready if ready and choose.random() < 0.2 else legal)
        if token in language.end_tokens:
            return language.decode(tokens)
        mask.accept(token)
        tokens += [token, *mask.forced()]
    tokens += mask.close()
    return language.decode(tokens)


SEARCH = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def valid(answer: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(answer)


@SEARCH
@given(schema=documents(), budget=st.integers(0, TOKENS_MAX), seed=st.integers(0, 2**32))
def test_every_answer_fits_the_schema_as_given(
    language: ModelLanguage, schema: dict[str, Any], budget: int, seed: int
) -> None:
    """Sampled to its end or cut at any token and closed: JSON, and valid under the original."""
    try:
        mask = language.mask(schema)
    except Refused as refused:
        event(f"refused: {refused.message.split(': ', 1)[1][:40]}")
        return
    event("accepted")
    text = walk(language, mask, budget, random.Random(seed)).decode()
    valid(json.loads(text), schema)


@SEARCH
@given(schema=documents(), budget=st.integers(0, TOKENS_MAX), seed=st.integers(0, 2**32))
def test_every_calls_arguments_fit_the_schema_as_given(
    language: ModelLanguage, schema: dict[str, Any], budget: int, seed: int
) -> None:
    """The same for a tool's call: a known name, and arguments that are valid."""
    parameters = {
        **{key: value for key, value in schema.items() if key == "$defs"},
        "type": "object",
        "properties": {"v": {key: value for key, value in schema.items() if key != "$defs"}},
        "required": ["v"],
    }
    tools = [OfferedTool("f", parameters), OfferedTool("ff", {**parameters, "required": []})]
    try:
        mask = language.call_mask(tools, ToolChoice(("f", "ff"), required=True))
    except Refused:
        return
    reader = CallReader(language.form)
    text = walk(language, mask, budget, random.Random(seed)).decode()
    part = reader.feed(text, last=True)
    (tool,) = [tool for tool in tools if tool.name == reader.name]
    valid(json.loads(part.arguments), tool.parameters)
