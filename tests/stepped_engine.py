"""An engine stepped by hand, its calls, and a model that breaks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.model_server.calls import Call
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from tests import tiny_models

SCHEMA = {
    "type": "object",
    "properties": {
        "tool": {"const": "answer"},
        "text": {"type": "string", "maxLength": 12},
        "level": {"enum": ["low", "middle", "high"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["tool", "text", "level", "count"],
}


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return tiny_models.of_kind(request.param, tmp_path_factory, tiny_model)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> tuple[Path, ModelLanguage]:
    return tiny_model, ModelLanguage(tiny_model)


@pytest.fixture
def engine(tiny: tuple[Path, ModelLanguage]) -> MlxEngine:
    return MlxEngine(tiny[0], tiny[1], fast_blas=True)


class Run:
    """Steps an engine and keeps what each call got."""

    def __init__(self, engine: MlxEngine) -> None:
        self.engine = engine
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}
        self.errors: dict[int, Exception] = {}
        self.order: list[int] = []  # calls, as their first tokens came
        self.failed_steps = 0

    def admit(self, call: Call) -> Call:
        self.engine.admit(call)
        self.tokens[call.number] = []
        return call

    def step(self) -> None:
        try:
            advances = self.engine.step()
        except Exception as error:
            self.failed_steps += 1
            advances = self.engine.recover(error)
        for advance in advances:
            number = advance.call.number
            if advance.tokens and not self.tokens[number]:
                self.order.append(number)
            self.tokens[number] += advance.tokens
            if advance.error is not None:
                self.errors[number] = advance.error
            elif advance.finish:
                self.ends[number] = advance.finish

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(3000):
            if condition():
                return
            self.step()
        raise AssertionError("never came to pass")

    def over(self, *calls: Call) -> Callable[[], bool]:
        return lambda: all(c.number in self.ends or c.number in self.errors for c in calls)


class Breaks:
    """Stands before a model: raises in chosen forward passes, else is the model."""

    def __init__(self, model: Any, when: Callable[[Any], bool]) -> None:
        self.model = model
        self.when = when
        self.layers = model.layers

    def __call__(self, tokens: Any, cache: Any) -> Any:
        logits = self.model(tokens, cache=cache)
        if self.when(tokens):
            raise RuntimeError("the step broke")  # with the caches half written
        return logits


def call_of(prompt: Sequence[int], **more: Any) -> Call:
    return Call(prompt, lambda piece: None, **{"max_tokens": 24, **more})


def chat(language: ModelLanguage, *contents: str) -> dict[str, Any]:
    roles = ["user"] if len(contents) == 1 else ["system", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    prompt = language.encode_chat(messages)
    return {"prompt": prompt.tokens, "checkpoints": prompt.checkpoints}


def text_call(language: ModelLanguage) -> Call:
    mask = language.mask({"type": "string", "minLength": 30, "maxLength": 40})
    return call_of(**chat(language, "text"), mask=mask, max_tokens=50)
