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
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.agent import Scores
from agentd.clock import Clock, SystemClock
from agentd.errors import ConfigError, ModelError
from agentd.llm.answer_schema import AnswerSchema, AnswerSchemas
from agentd.llm.calibration import Calibration, blanked, likeliest
from agentd.llm.decision import DONE, Ask, Decision, Message, Terms, with_log
from agentd.llm.label_tokens import TOP_LOGPROBS, label_logprobs, with_label
from agentd.llm.union import Client, Malformed, Union
from agentd.states import CLOSED, LOGPROBS, OFFSETS

if TYPE_CHECKING:  # the HTTP modules cost an idle worker memory
    from agentd.llm.completion import Completion
    from agentd.llm.endpoint import Endpoint

BYTES_PER_TOKEN = 2  # a safe over-estimate where the server does not tokenize
MESSAGE_TOKENS = 8  # of a chat template around each message, likewise


class BamlLLM:
    """An agent's union over a model server. `messages` are those of an empty log."""

    def __init__(
        self,
        union: Union,
        messages: Sequence[Message],
        endpoint: Endpoint,
        *,
        agent: str,
        weight: int = 5,
        clock: Clock | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.calibration = calibration or Calibration({})
        self._union = union
        self._schemas = AnswerSchemas(union.schema)
        self._messages = messages
        self._endpoint = endpoint
        self._agent = agent
        self._weight = weight
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

    def count(self, text: str, within: int = 0) -> int:
        """Return the tokens of a piece of the log. See `LLM.count`.

        Our own server is not asked for what is surely short: its next answer tells. A token is
        never shorter than a byte of what the tokenizer has made of the text: as it is, or in
        another form of Unicode, of which those that take letters and accents apart are the longest.
        """
        if self._endpoint.own and len(text) <= within:
            apart = (unicodedata.normalize(form, text) for form in ("NFD", "NFKD"))
            size = max(len(form.encode()) for form in (text, *apart))
            if size <= within:
                return size
        body: dict[str, Any] = {"content": text}
        if not self._endpoint.own:  # llama.cpp reads `content`, vLLM `prompt`
            body |= {"prompt": text, "add_special_tokens": False}
        tokens = _tokens(self._endpoint.tokenize(body))
        return -(-len(text.encode()) // BYTES_PER_TOKEN) if tokens is None else tokens

    def prompt(self, log: str) -> list[Message]:
        """Return the exact messages of a call."""
        return with_log(self._messages, log)

    def decide(self, ask: Ask) -> Decision:
        """Ask for one decision. See `LLM.decide`."""
        names = ask.among(self.names)
        if (certain := self._union.certain(names, ask.candidates)) is not None:
            return self.restore(certain)
        if ask.offsets is None:
            ask = replace(ask, offsets=self._offsets(ask, names))
        return self._ask(ask, names)

    def _ask(self, ask: Ask, names: frozenset[str]) -> Decision:
        from agentd.llm.faults import LogprobsRefused, MaskRefused, SchemaUnknown
        from agentd.llm.thoughts import spoken

        messages = self.prompt(ask.log)
        schema = self._schemas.of(names, ask.candidates)
        started = self._clock.monotonic()
        asked_again = False
        while True:
            body = self._body(messages, names, ask, schema)
            try:
                answer = self._endpoint.chat(
                    body, self._headers(ask), deadline_s=ask.deadline_s, progress=ask.progress
                )
            except SchemaUnknown:
                if not schema.unknown():
                    raise
                continue
            except MaskRefused:
                self._endpoint.masks = False
                continue
            except LogprobsRefused:
                if not self._endpoint.logprobs:
                    raise
                self._endpoint.logprobs = False
                continue
            schema.told = True
            if "logprobs" in body and not answer.tokens:  # it leaves them out without a word
                self._endpoint.logprobs = False
            cut_off = answer.finish_reason == "length"
            text = answer.text if self._endpoint.own else spoken(answer.text)
            try:
                decision = self._decision(answer, text, ask, names)
                if decision.name == DONE and cut_off and not self._endpoint.own:
                    raise Malformed("it is only a part, and nobody closed it off")
            except Malformed as error:
                cut = " (it was cut off: answer shorter)" if cut_off else ""
                if self._endpoint.own or asked_again:
                    raise ModelError(
                        f"the model's answer is no decision{cut}: {error}",
                        hint="a larger model, a simpler union, or more [limits] decision_tokens",
                    ) from error
                asked_again = True
                messages = [*messages, *_again(text, f"{error}{cut}", names)]
                continue
            duration_ms = (self._clock.monotonic() - started) * 1000
            return replace(
                decision,
                usage=replace(answer.usage, duration_ms=duration_ms),
                context_tokens=(answer.usage.prompt_tokens or None) if self._endpoint.own else None,
            )

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Score items after heads. See `LLM.score`."""
        from agentd.llm.likelihood import likelihood

        headers, deadline_s = self._headers(terms), terms.deadline_s
        return likelihood(self._endpoint, heads, items, headers=headers, deadline_s=deadline_s)

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

    def _offsets(self, ask: Ask, names: frozenset[str]) -> dict[str, dict[str, float]]:
        """Return what to take off the labels of these classes."""
        fields = self.calibration.among(names)
        if not fields or not self._tells or not self.calibration.helps(self._endpoint.model()):
            return {}
        for name in sorted({field.partition(".")[0] for field in fields}):
            self._try_neutral(name, ask)
        return {field: self.calibration.seen(field).offsets() for field in fields}

    def _try_neutral(self, name: str, ask: Ask) -> None:
        """Ask with neutral input what a class's labels get, where that is not known yet."""
        if not self.calibration.neutral_due(name):
            return
        seen = {field: self.calibration.seen(field) for field in self.calibration.among((name,))}
        told: Mapping[str, Mapping[str, Any]] = {}
        with suppress(ModelError):  # then there is nothing to take off
            asked = replace(ask, log=blanked(ask.log), allowed=frozenset({name}), offsets={})
            told = self._ask(asked, frozenset({name})).labels
        for field, one in seen.items():  # as before: this was no decision
            given = told.get(field.partition(".")[2], {}).get("logprobs")
            self.calibration.begin(field, replace(one, neutral=one.neutral or given))

    @property
    def _tells(self) -> bool:
        """Whether the model server gives labels' log-probabilities, as far as is known."""
        return self._endpoint.masks if self._endpoint.own else self._endpoint.logprobs

    @property
    def _reads_words(self) -> bool:
        """Whether our own server reads labels as words: where their preference is taken off."""
        return self._endpoint.own and self.calibration.helps(self._endpoint.model())

    def _decision(self, answer: Completion, text: str, ask: Ask, names: frozenset[str]) -> Decision:
        """Return an answer, without thoughts its `text`, with what is known of its labels.

        Raises:
            Malformed: it is none of `names`.
        """
        raw, labels = text, {}
        name, args, value = self._union.parse(raw, names, ask.candidates)
        for field, known in self.calibration.among((name,)).items():
            key = field.partition(".")[2]
            wanted = (ask.offsets or {}).get(field, {})
            if self._endpoint.own:
                by, logprobs = OFFSETS, answer.labels.get(self._place(field), {})
            else:
                by, logprobs = LOGPROBS, label_logprobs(answer.text, answer.tokens, key, known)
                best = likeliest(logprobs, wanted) if logprobs else args[key]
                chosen = with_label(raw, key, args[key], best)
                # What follows the label, if anything, was written in its knowledge.
                raw, wanted = (raw, {}) if chosen is None else (chosen, wanted)
            if not logprobs and answer.finish_reason == "length":
                by = CLOSED
            labels[key] = self.calibration.weighed(
                field, logprobs, wanted, by, words=self._reads_words
            )
        if raw != text:
            name, args, value = self._union.parse(raw, names, ask.candidates)
        return Decision(name, args, value, raw, answer.finish_reason, labels=labels)

    def _place(self, field: str) -> str:
        """Return a label field's name in the model server's protocol."""
        name, _, key = field.partition(".")
        return f"{self._union.tool(name)}.{key}"

    def _headers(self, terms: Terms) -> dict[str, str]:
        return {
            "X-Agentd-Agent": self._agent,
            "X-Agentd-Session": str(terms.session),
            "X-Agentd-Priority": str(terms.priority),
            "X-Agentd-Weight": str(self._weight),
        }

    def _body(
        self, messages: list[Message], names: frozenset[str], ask: Ask, schema: AnswerSchema
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": messages,
            "temperature": 0,
            "seed": 0,
            "max_tokens": ask.max_tokens,
        }
        if self._endpoint.masks:
            body["response_format"] = schema.response_format(own=self._endpoint.own)
        fields = self.calibration.among(names)
        if fields and not self._endpoint.own and self._endpoint.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        elif fields and self._endpoint.own and self._endpoint.masks:
            body["agentd_labels"] = {
                self._place(field): {
                    label: (ask.offsets or {}).get(field, {}).get(label, 0.0) for label in labels
                }
                for field, labels in fields.items()
            }
            body["agentd_label_words"] = self._reads_words
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
