"""Answers that are legal by construction: JSON Schemas compiled to token masks by llguidance.

A schema is compiled once (1 to 10 ms) and found and copied per request (12 us); the mask of one
step takes 14 us as a rule and 0.3 ms at most with a vocabulary of 49,152. JSON is compact, without
free whitespace, properties come in the schema's order, and strings have no \\u escapes, which cost
six tokens a character.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from agentd.json_schema.bounds import MODEL_SERVER, Schema, Unfit
from agentd.json_schema.writing import Bounded, bounded
from agentd.model_server.calls import Refused
from agentd.model_server.grammar import call_grammar
from agentd.model_server.grammar.answer_ends import Endings
from agentd.model_server.grammar.compilations import Compilations
from agentd.model_server.grammar.endless import prune
from agentd.model_server.grammar.labels import LabelMask, label_fields
from agentd.model_server.grammar.mask import (
    CLOSING_TOKENS_MAX,
    AnswerMask,
    CallMask,
    Compiled,
    single_tokens,
)
from agentd.model_server.protocols import Labels
from agentd.model_server.tool_calls import Form, OfferedTool, ToolChoice, encoded

BOUNDS = MODEL_SERVER
LIMITS = LLParserLimits(max_lexer_states=50_000)  # 1 to 2 KB each, kept as long as the grammar
OPTIONS = {"whitespace_flexible": False, "json_allowed_escapes": '"\\nrt'}
ESCAPED = {**OPTIONS, "json_allowed_escapes": '"\\nrtu'}  # of controls in an enum, that need it
SPACED = {"item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Compiles schemas for one tokenizer and keeps the compiled ones. Usable from any thread.

    `markers` are its tokens that are no part of any text, with what they show as: their own name,
    a mark, or nothing.
    """

    def __init__(
        self,
        tokenizer_json: str,
        vocabulary: int,
        end_tokens: Sequence[int],
        *,
        markers: Mapping[int, str] | None = None,
    ) -> None:
        self.tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=[*end_tokens])
        self._compilations = Compilations[Compiled]()
        self._single = single_tokens(self.tokenizer)
        self._markers = dict(markers or {})
        self._silent = sorted(self._markers.keys() - set(end_tokens))
        self._written = {shown: number for number, shown in self._markers.items() if shown}

    def mask(self, schema: object) -> AnswerMask:
        """Return a fresh mask for one answer.

        Raises:
            Refused: the schema is too large, takes too long, or cannot be honoured.
        """
        compiled = self._of_schema(schema)
        return AnswerMask(compiled, self._single, self.bytes_of, self._tokens_of)

    def call_mask(
        self,
        form: Form,
        tools: Sequence[OfferedTool],
        choice: ToolChoice,
        schema: object | None = None,
    ) -> CallMask:
        """Return a fresh mask for text, or an answer of `schema`, or a call of a chosen tool.

        Raises:
            Refused: as for `mask`; names the tool.
        """
        size = sum(len(json.dumps(tool.parameters)) for tool in tools)
        if size > BOUNDS.bytes:
            raise Refused(f"tools: together more than {BOUNDS.bytes} bytes", param="tools")
        chosen = {
            tool.name: self._of_tool(number, tool)
            for number, tool in enumerate(tools)
            if tool.name in choice.names
        }
        answer = None if schema is None or choice.required else self._of_schema(schema)
        if answer and chosen and not form.trigger:
            raise Refused(
                "this model writes a tool call as bare JSON, which cannot be told from an answer "
                'in JSON; use tool_choice "required" or "none"',
                code="unsupported_parameter",
                param="response_format",
            )
        spaced = SPACED if form.spaced else {}
        schemas = {
            name: {**one.schema, "x-guidance": {**one.options, **spaced}}
            for name, one in chosen.items()
        }
        grammar = call_grammar.write(
            form,
            schemas,
            {**answer.schema, "x-guidance": answer.options} if answer else None,
            required=choice.required,
            silent=self._silent,
            written=self._written,
        )
        parts = [*chosen.values(), *([answer] if answer else [])]
        longest = max((part.string_tokens for part in parts), default=0)
        compiled = self._once(
            f"calls {grammar}",
            lambda: Compiled(
                self._matcher(lambda: grammar),
                longest,
                endings={
                    **(answer.endings if answer else {}),
                    **{name: self._endings(one.schema, form) for name, one in chosen.items()},
                },
            ),
        )
        return CallMask(
            compiled,
            self._single,
            self.bytes_of,
            self._tokens_of,
            form,
            json_answer=answer is not None,
        )

    def labelled(
        self, mask: AnswerMask, schema: Schema, labels: Labels, *, words: bool = False
    ) -> LabelMask:
        """Return a mask that chooses labels by one token each. Raises Refused."""
        fields = label_fields(schema, labels, self.tokenizer, words=words)
        return LabelMask(mask, fields, self.tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; for a marker, those of what it shows as."""
        if token in self._markers:
            return encoded(self._markers[token])
        return bytes(self.tokenizer.decode_bytes([token]))

    def _tokens_of(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.tokenize_str(text)
        if self.tokenizer.decode_bytes(tokens) == text.encode():
            return tokens
        return list(self.tokenizer.greedy_tokenize(text))  # some put a space before the first word

    def _endings(self, schema: Schema, form: Form | None = None) -> Endings:
        spaced = form is not None and form.spaced
        return Endings(schema, lambda text: len(self._tokens_of(text)), spaced=spaced)

    def _of_tool(self, number: int, tool: OfferedTool) -> Compiled:
        try:
            return self._of_schema(tool.parameters)
        except Refused as refusal:
            if refusal.param == "response_format":
                where = f"tools.{number}.function.parameters of {tool.name!r}"
                refusal.message = f"{where} at {refusal.message}"
                refusal.param = "tools"
            raise

    def _of_schema(self, schema: object) -> Compiled:
        # The order of properties is the order of the answer: no sorting here.
        return self._once(json.dumps(schema), lambda: self._compile(schema))

    def _once(self, text: str, make: Callable[[], Compiled]) -> Compiled:
        """Return what `make` returns or returned for this text. Raises Refused."""

        def refusing() -> Compiled:
            try:
                return make()
            except Unfit as error:
                raise Refused(
                    str(error), code="unsupported_schema", param="response_format"
                ) from error

        return self._compilations.get(hashlib.sha256(text.encode()).hexdigest(), refusing)

    def _compile(self, schema: object) -> Compiled:
        ready = bounded(schema, BOUNDS)
        endings = self._endings(ready.schema)
        if endings.shortest is None or endings.shortest[0] > CLOSING_TOKENS_MAX:
            raise Unfit("", f"no answer of {CLOSING_TOKENS_MAX} tokens or fewer was found for it")
        prune(ready.schema, endings.endless)
        options = ESCAPED if ready.escaped else OPTIONS
        try:
            matcher = self._of_json(ready.schema, options)
        except Unfit as error:
            raise self._placed(ready, options, error) from error
        compiled = Compiled(matcher, ready.longest_string, ready.schema, {"": endings}, options)
        self._try_to_close(compiled)
        return compiled

    def _placed(self, ready: Bounded, options: Schema, error: Unfit) -> Unfit:
        """Return an error of the compiler with the place that it is about, if that can be told."""
        for place, text in ready.texts:
            try:
                self._of_json(text, options)
            except Unfit as own:
                return Unfit(place, own.reason)
        return error

    def _of_json(self, schema: Schema, options: Schema) -> LLMatcher:
        text = json.dumps(schema)
        return self._matcher(lambda: LLMatcher.grammar_from_json_schema(text, overrides=options))

    def _matcher(self, grammar: Callable[[], str]) -> LLMatcher:
        try:
            matcher = LLMatcher(self.tokenizer, grammar(), log_level=0, limits=LIMITS)
        except ValueError as error:  # values nested too deep
            raise Unfit("", f"the schema cannot be compiled: {error}") from error
        if matcher.is_error():
            lines = matcher.get_error().strip().splitlines()
            reason = next((line for line in lines if line.startswith("error: ")), lines[0])
            raise Unfit("", f"the schema cannot be compiled: {reason.removeprefix('error: ')}")
        return matcher

    def _try_to_close(self, compiled: Compiled) -> None:
        """Raise Unfit where the shortest answer is not found: patterns may ask for too much."""
        why = ""
        mask = AnswerMask(compiled, self._single, self.bytes_of, self._tokens_of)
        try:
            begun = mask.forced()  # tokenizers of words cannot write what the grammar forces
            closed = begun + mask.close(CLOSING_TOKENS_MAX - len(begun))
        except Refused as refusal:  # the compiler hit one of its limits
            closed, why = [], f": {refusal.message}"
        if not closed:
            most = f"no answer of {CLOSING_TOKENS_MAX} tokens or fewer was found for it"
            raise Unfit("", most + why)
