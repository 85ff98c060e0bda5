"""The model boundary: BAML renders the prompt and parses the decision; the call itself is ours.

The only module that imports BAML and generated clients, and it does so at the first use, not at
import: an idle worker stays small, and a process that imported BAML must never fork.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from agentd.clock import Clock, SystemClock
from agentd.errors import ConfigError, ModelError
from agentd.llm.decision import LLM, Choice, Decision, Message, with_log
from agentd.llm.union import Client, Malformed, Union
from agentd.states import Priority

if TYPE_CHECKING:  # the HTTP modules cost an idle worker memory
    from agentd.llm.completion import Completion
    from agentd.llm.endpoint import Endpoint

__all__ = ["LLM", "BamlLLM", "Choice", "Decision", "Message", "load_client", "types_of"]

BYTES_PER_TOKEN = 2  # a safe over-estimate where the server does not tokenize
MESSAGE_TOKENS = 8  # of a chat template around each message, likewise


class BamlLLM:
    """An agent's union over a model server.

    `client_dir` is a version's `baml_client`; `function` its BAML function; `fixed` the
    function's arguments besides `context` and `done`; `arguments` narrows classes by name
    (lengths, ranges); `members` chooses the classes where the function returns `Choice`.
    """

    def __init__(
        self,
        client_dir: Path,
        function: str,
        endpoint: Endpoint,
        *,
        agent: str,
        done: str,
        weight: int = 5,
        fixed: Mapping[str, Any] | None = None,
        arguments: Mapping[str, type[BaseModel]] | None = None,
        members: Sequence[str] | None = None,
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._union = Union(load_client(client_dir), function, members, arguments or {})
        self._endpoint = endpoint
        self._agent = agent
        self._weight = weight
        self._given = {"done": done, **(fixed or {})}
        self._seed = seed
        self._clock = clock or SystemClock()
        self._window = endpoint.context_window
        self._fixed_tokens: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """The classes of the union."""
        return frozenset(self._union.members)

    def window(self) -> int:
        """Return the tokens of the model's context window.

        Raises:
            ConfigError: an external server does not say it, and [model] does not either.
        """
        if self._window is None:
            reply = self._endpoint.tokenize({"content": "a"}) or {}
            window = reply.get("max_model_len")
            if not isinstance(window, int) or window < 1:
                raise ConfigError(
                    "the model server does not say how long its context window is",
                    where="[model] context_window",
                    hint="set it to the model's window, in tokens",
                )
            self._window = window
        return self._window

    def fixed_tokens(self) -> int:
        """Return the tokens of the prompt without the log, chat template included."""
        if self._fixed_tokens is None:
            messages = self.prompt("")
            tokens = _tokens(self._endpoint.tokenize({"messages": messages}))
            if not tokens:
                text = "\n".join(message["content"] for message in messages)
                tokens = self.count(text) + MESSAGE_TOKENS * len(messages)
            self._fixed_tokens = tokens
        return self._fixed_tokens

    def count(self, text: str) -> int:
        """Return the tokens of a piece of the log."""
        body: dict[str, Any] = {"content": text}
        if not self._endpoint.own:  # llama.cpp reads `content`, vLLM `prompt`
            body |= {"prompt": text, "add_special_tokens": False}
        tokens = _tokens(self._endpoint.tokenize(body))
        return -(-len(text.encode()) // BYTES_PER_TOKEN) if tokens is None else tokens

    def prompt(self, log: str) -> list[Message]:
        """Return the exact messages of a call."""
        return with_log(self._frame, log)

    @cached_property
    def _frame(self) -> list[Message]:
        """The messages of an empty log; the log goes to the end of the last one."""
        return self._union.frame(self._given)

    def decide(
        self,
        log: str,
        *,
        allowed: frozenset[str] | None = None,
        max_tokens: int,
        deadline_s: float,
        priority: Priority,
        session: int,
        progress: Callable[[], None],
    ) -> Decision:
        """Ask for one decision. See `LLM.decide`."""
        from agentd.llm.faults import MaskRefused

        names = self.names if allowed is None else self.names & allowed
        headers = {
            "X-Agentd-Agent": self._agent,
            "X-Agentd-Session": str(session),
            "X-Agentd-Priority": str(priority),
            "X-Agentd-Weight": str(self._weight),
        }
        messages = self.prompt(log)
        started = self._clock.monotonic()
        asked_again = False
        while True:
            body = self._body(messages, names, max_tokens)
            try:
                answer = self._endpoint.chat(
                    body, headers, deadline_s=deadline_s, progress=progress
                )
            except MaskRefused:
                self._endpoint.masks = False
                continue
            try:
                name, args, value = self._union.parse(answer.text, names)
            except Malformed as error:
                cut = (
                    " (it was cut off: answer shorter)" if answer.finish_reason == "length" else ""
                )
                if self._endpoint.own or asked_again:
                    raise ModelError(
                        f"the model's answer is no decision{cut}: {error}",
                        hint="a larger model, a simpler union, or more [limits] decision_tokens",
                    ) from error
                asked_again = True
                messages = [*messages, *_again(answer.text, f"{error}{cut}", names)]
                continue
            duration = (self._clock.monotonic() - started) * 1000
            return _decision(name, args, value, answer, duration)

    def restore(self, raw: str) -> Decision:
        """Return a recorded decision from its text. See `LLM.restore`."""
        try:
            name, args, value = self._union.parse(raw, self.names)
        except Malformed as error:
            raise ModelError(f"the recorded answer is no decision: {error}") from error
        return Decision(name, args, value, raw)

    def close(self) -> None:
        """End a running call from another thread, and refuse new ones. Never raises."""
        self._endpoint.close()

    def _body(self, messages: list[Message], names: frozenset[str], limit: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": messages,
            "temperature": 0,
            "seed": self._seed,
            "max_tokens": limit,
        }
        if self._endpoint.masks:
            schema = {"name": "decision", "strict": True, "schema": self._union.schema(names)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


_clients: dict[Path, Client] = {}


def load_client(folder: Path) -> Client:
    """Import a generated client under a private name, so that several can be loaded.

    Costs 0.3 s and 30 MB the first time in a process. Never fork afterwards: BAML has threads.

    Raises:
        ConfigError: the folder holds no client.
    """
    folder = folder.resolve()
    if folder in _clients:
        return _clients[folder]
    os.environ["BAML_LOG"] = "off"  # it writes to stdout otherwise; read at import
    name = "agentd_client_" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name, init, submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not init.is_file():
        raise ConfigError("no generated client", where=str(folder), hint="reload the agent")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    from baml_py.errors import BamlError

    builder = importlib.import_module(f"{name}.type_builder").TypeBuilder
    _clients[folder] = Client(package.b, package.types, builder, BamlError)
    return _clients[folder]


def types_of(client_dir: Path) -> ModuleType:
    """Return the generated types of a version, for `Kit.types`."""
    return load_client(client_dir).types


def _tokens(reply: Mapping[str, Any] | None) -> int | None:
    if reply is None:
        return None
    count = reply.get("count", len(reply.get("tokens") or ()) or None)
    return count if isinstance(count, int) else None


def _again(answer: str, why: str, names: frozenset[str]) -> list[Message]:
    ask = (
        f"That is no legal answer: {why}. Answer with one JSON object: {', '.join(sorted(names))}."
    )
    return [{"role": "assistant", "content": answer[:1000]}, {"role": "user", "content": ask}]


def _decision(
    name: str, args: Mapping[str, Any], value: Any, answer: Completion, duration_ms: float
) -> Decision:
    usage = answer.usage
    return Decision(
        name,
        args,
        value,
        answer.text,
        answer.finish_reason,
        usage["prompt_tokens"],
        usage["cached_tokens"],
        usage["completion_tokens"],
        duration_ms,
    )
