"""One schema's trial: whether it is accepted, and whether its answers and their ends are legal."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import jsonschema
import numpy as np
from jsonschema.validators import extend, validator_for
from llguidance import LLMatcher

from agentd.model_server.calls import Refused
from agentd.model_server.grammar.grammar import LIMITS
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.tool_calls import CallReader, OfferedTool, ToolChoice, decoder

WALKS, CUTS, TOKENS = 3, 6, 120  # of a schema; cuts of a walk; tokens of a walk before it is cut


@dataclass
class Trial:
    """What became of a schema."""

    refused: str = ""
    alone: bool = False  # llguidance takes it as it is
    answers: int = 0
    ends: int = 0
    illegal: list[str] = field(default_factory=list)
    compile_s: float = 0.0
    masks_s: list[float] = field(default_factory=list)


def _multiple(_validator: Any, step: Any, value: Any, _schema: Any) -> Any:
    """Check multipleOf by digits: 0.3 is a multiple of 0.1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and Fraction(str(value)) % Fraction(str(step)):
        yield jsonschema.ValidationError(f"{value!r} is no multiple of {step!r}")


def validator(schema: dict[str, Any]) -> Any:
    """Return what checks an answer against a schema as it was given."""
    kind = validator_for(schema, jsonschema.Draft202012Validator)
    checking: Any = extend  # has no annotations
    return checking(kind, {"multipleOf": _multiple})(schema)


def alone(language: ModelLanguage, schema: Any) -> bool:
    """Say whether llguidance takes a schema as it is."""
    text = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    grammar = LLMatcher(language.grammars.tokenizer, text, log_level=0, limits=LIMITS)
    return not grammar.is_error()


def walk(
    language: ModelLanguage, mask: Any, draw: random.Random, trial: Trial
) -> tuple[list[int], bool]:
    """Sample at random, now and then what ends soonest; return the tokens, and whether they end."""
    tokens = list(mask.forced())
    closers = [language.grammars._single[sign] for sign in '"}]']
    hurry = draw.choice([0.05, 0.3])
    while not mask.finished and len(tokens) < TOKENS:
        started = time.perf_counter()
        bits = mask.allowed()
        trial.masks_s.append(time.perf_counter() - started)
        legal = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little"))
        ready = [token for token in closers if bits[token // 8] >> (token % 8) & 1]
        token = int(draw.choice(ready if ready and draw.random() < hurry else legal))
        if token in language.end_tokens:
            return tokens, True
        mask.accept(token)
        tokens += [token, *mask.forced()]
    return tokens, bool(mask.finished)


def attempt(language: ModelLanguage, schema: dict[str, Any], draw: random.Random) -> Trial:
    """Try a schema: compile it, answer it at random, cut the answers and end them.

    Some of the answers are the arguments of a call, where a schema is one of objects.
    """
    trial = Trial(alone=alone(language, schema))
    started = time.perf_counter()
    try:
        language.mask(schema)
    except Refused as refused:
        trial.refused = refused.message
        return trial
    trial.compile_s = time.perf_counter() - started
    checked = validator(schema)
    for _ in range(WALKS):
        call = schema.get("type") == "object" and draw.random() < 0.3
        make = _called(language, schema) if call else lambda: language.mask(schema)
        try:
            tokens, whole = walk(language, make(), draw, trial)
        except Refused as refused:
            trial.illegal.append(f"stuck: {refused.message}")
            continue
        if whole:
            trial.answers += 1
            _check(language, checked, tokens, "answer", schema, trial)
        least = len(make().forced()) if call else 0  # what opens a call is never cut
        for _ in range(CUTS if tokens else 1):
            trial.ends += 1
            cut = tokens[: draw.randint(least, len(tokens))]
            mask = make()
            for token in cut:
                mask.accept(token)
            done = [*cut, *mask.close()]
            _check(language, checked, done, f"end after {len(cut)}", schema, trial)
    return trial


def _called(language: ModelLanguage, schema: dict[str, Any]) -> Callable[[], Any]:
    tools = [OfferedTool("f", schema), OfferedTool("ff", {"type": "object"})]
    return lambda: language.call_mask(tools, ToolChoice(("f",), required=True))


def _check(
    language: ModelLanguage, checked: Any, tokens: list[int], what: str, schema: Any, trial: Trial
) -> None:
    text = decoder().decode(language.decode(tokens), final=True)
    reader = CallReader(language.form)
    part = reader.feed(text, last=True)
    text = part.arguments if reader.name else text
    try:
        checked.validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        reason = getattr(error, "message", str(error))
        trial.illegal.append(f"{what}: {text[:300]!r}: {reason[:200]}\n  {json.dumps(schema)}")
