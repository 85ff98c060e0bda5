"""An engine without MLX whose model wants to say a given text, and says what the mask allows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentd.model_server.calls import Advance, Call, FinishReason
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.tool_calls import encoded


@dataclass
class _Row:
    call: Call
    wanted: bytes
    tokens: list[int] = field(default_factory=list)  # not yet delivered
    said: bytes = b""


SLOTS = 4


class WantingEngine:
    """Says `wants(call)`, a token a step.

    Where the mask forbids the next token of that, it says the lowest one that is allowed. Special
    tokens are wanted as the marks of the language's form.
    """

    slots = SLOTS

    def __init__(self, language: ModelLanguage, wants: Callable[[Call], str]) -> None:
        self._language = language
        self._wants = wants
        self._rows: dict[int, _Row] = {}

    def admit(self, call: Call) -> None:
        row = self._rows[call.number] = _Row(call, encoded(self._wants(call)))
        if call.mask is not None:
            self._take(row, call.mask.forced())

    def step(self) -> list[Advance]:
        return [self._advance(row) for row in list(self._rows.values())]

    def remove(self, call: Call) -> None:
        self._rows.pop(call.number, None)

    def fits(self, call: Call) -> bool:
        return len(self._rows) < self.slots

    def recover(self, error: Exception) -> list[Advance]:
        rows, self._rows = self._rows, {}
        return [Advance(row.call, error=error) for row in rows.values()]

    def cache_bytes(self) -> int:
        return 0

    def counters(self) -> Mapping[str, float]:
        return {}

    def save(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _advance(self, row: _Row) -> Advance:
        call, mask = row.call, row.call.mask
        finish: FinishReason | None = None
        if (mask is not None and mask.finished) or (token := self._next(row)) is None:
            finish = "stop"
        else:
            self._take(row, [token])
            if mask is not None:
                mask.accept(token)
                self._take(row, mask.forced())
            if mask is not None and mask.finished:
                finish = "stop"
            elif call.completion_tokens >= call.max_tokens:
                finish = "length"
                self._take(row, mask.close() if mask is not None else [])
        if finish:
            self._rows.pop(call.number)
        tokens, row.tokens = tuple(row.tokens), []
        return Advance(call, tokens, finish)

    def _take(self, row: _Row, tokens: list[int]) -> None:
        row.tokens += tokens
        row.said += self._language.decode(tokens)
        row.call.completion_tokens += len(tokens)

    def _next(self, row: _Row) -> int | None:
        """Return the next token, or None for the end."""
        bits = row.call.mask.allowed() if row.call.mask is not None else None
        rest = row.wanted[len(row.said) :] if row.wanted.startswith(row.said) else b""
        for shown, number in self._language.grammars._written.items():
            if rest.startswith(encoded(shown)) and allows(bits, number):
                return number
        wanted: list[int] = self._language.grammars.tokenizer.tokenize_bytes(rest)[:1]
        if wanted and allows(bits, wanted[0]):
            return wanted[0]
        if bits is None or any(allows(bits, end) for end in self._language.end_tokens):
            return None
        return next(number for number in range(len(bits) * 8) if allows(bits, number))


def allows(bits: bytes | None, token: int) -> bool:
    """Say whether a mask allows a token."""
    return bits is None or bool(bits[token // 8] >> (token % 8) & 1)
