"""Steps: a session's durable log, one row per event that the model saw or decision it took."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from agentd.bus.json_text import compact, is_utf8
from agentd.clock import EPOCH, iso, parse_iso
from agentd.errors import SessionFailed
from agentd.events import Event, NewEvent
from agentd.states import Priority

# With \uXXXX only: what a lone surrogate (half a file name) can be stored as.
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class StepKind(StrEnum):
    """What a step records."""

    OPENING = "opening"  # the event, as the agent opened the session with it
    DECISION = "decision"  # what the model decided; `type` is the class
    RESULT = "result"  # what the last decision came to
    NOTE = "note"  # what a guard told the model
    # What a decision that needs a person's yes went through, up to its result:
    ASKED = "asked"  # with how long it may wait
    GRANTED = "granted"
    DENIED = "denied"
    STARTED = "started"  # written before the effect: only this may have happened or not


STAGES = frozenset({StepKind.ASKED, StepKind.GRANTED, StepKind.DENIED, StepKind.STARTED})
LOGGED = frozenset(StepKind) - STAGES - {StepKind.DECISION}  # what the model sees of a session


@dataclass(frozen=True)
class Step:
    """One step. `publish` and `remember` are staged: they take effect when the session closes.

    The journal gives it its number, its times, its attempt and its counts.
    """

    seq: int = field(default=0, kw_only=True)  # 1 is the session's first
    kind: StepKind
    type: str
    payload: Mapping[str, Any]
    ts: datetime = field(default=EPOCH, kw_only=True)
    trusted: bool = True
    # Of a decision: its handler may run again after it was cut off. Of a result: nothing happened
    # that must not happen twice.
    idempotent: bool = True
    publish: tuple[NewEvent, ...] = ()
    remember: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    duration_ms: float | None = None
    raw: str | None = None
    active_s: float = 0.0  # the session's active time when it was recorded
    attempt: int = 1
    # What the model's tokenizer said since the step before, in the order it was asked; of what was
    # surely short, its bytes.
    counts: tuple[int, ...] = ()
    # Of a decision: what the turn allowed (None: every class of the union), how the answer ended,
    # and the tokens of the prompt: by the server's count where it told, else by the loop's own.
    allowed: tuple[str, ...] | None = None
    finish_reason: str = "stop"
    context_tokens: int | None = None
    # Of a decision: what its labels rest on, by field; see `agentd.llm.calibration`.
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    asks: bool = False  # of a decision: a person has to say yes before it is carried out
    # What the agent had scored since the step before: heads, items and scores.
    scored: tuple[Mapping[str, Any], ...] = ()
    planned: bool = False  # of a decision: the agent's own plan, no model was asked
    # Of a decision that the agent planned to ask for: all that the model saw of the log.
    about: Mapping[str, Any] | None = None
    # Of a decision: what could stand in a field in this session, by "Class.field".
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Of a planned decision's result, where the model saw less of it.
    whole: Mapping[str, Any] | None = None

    @property
    def value(self) -> Mapping[str, Any]:
        """What it came to, without the cuts that the model's window needs."""
        return self.payload if self.whole is None else self.whole

    @property
    def had_effect(self) -> bool:
        """Whether it is the result of something that must not happen twice."""
        return self.kind is StepKind.RESULT and not self.idempotent

    @property
    def repeatable(self) -> bool:
        """Of a decision: it may be carried out again after it was cut off. A yes is for once."""
        return self.idempotent and not self.asks

    def row(self) -> tuple[Any, ...]:
        """Return the step as its row, from `seq` on.

        Raises:
            SessionFailed: the payload or a remembered value is not JSON.
        """
        staged = None
        if self.publish or self.remember:
            staged = encode(effects_document(self.publish, self.remember), self.type)
        return (
            self.seq,
            self.kind.value,
            self.type,
            encode(self.payload, self.type),
            iso(self.ts),
            int(self.trusted),
            int(self.idempotent),
            staged,
            self.prompt_tokens,
            self.cached_tokens,
            self.completion_tokens,
            self.duration_ms,
            None if self.raw is None else self.raw.encode("utf-8", "replace").decode(),
            int(self.active_s * 1000),
            self._basis(),
        )

    def _basis(self) -> str | None:
        """Return what the step depended on as JSON, without what is as usual."""
        basis: dict[str, Any] = {}
        if self.attempt > 1:
            basis["attempt"] = self.attempt
        if self.counts:
            basis["counts"] = self.counts
        if self.allowed is not None:
            basis["allowed"] = self.allowed
        if self.finish_reason != "stop":
            basis["finish_reason"] = self.finish_reason
        if self.context_tokens is not None:
            basis["context_tokens"] = self.context_tokens
        if self.labels:
            basis["labels"] = self.labels
        if self.asks:
            basis["asks"] = True
        for key in ("scored", "planned", "candidates"):
            if value := getattr(self, key):
                basis[key] = value
        for key in ("about", "whole"):
            if (value := getattr(self, key)) is not None:
                basis[key] = value
        return encode(basis, self.type) if basis else None


def effects_document(publish: Iterable[NewEvent], remember: Mapping[str, Any]) -> dict[str, Any]:
    """Return events to publish and facts to remember as plain JSON."""
    events = [[e.event_type, e.payload, e.target, e.dedup_key] for e in publish]
    return {"publish": events, "remember": dict(remember)}


def from_row(row: Any) -> Step:
    """Read what `Step.row` wrote.

    Raises:
        SessionFailed: somebody changed it, and it can be read no more.
    """
    try:
        return _read(row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SessionFailed(
            f"cannot be read: {error}", where=f"step {row[0]}", hint="somebody changed its row"
        ) from error


def _read(row: Any) -> Step:
    staged = json.loads(row[7]) if row[7] else {"publish": [], "remember": {}}
    fields = (
        StepKind(row[1]),
        row[2],
        json.loads(row[3]),
        bool(row[5]),
        bool(row[6]),
        tuple(NewEvent(*event) for event in staged["publish"]),
        staged["remember"],
        *row[8:13],
        row[13] / 1000,
    )
    basis = json.loads(row[14]) if row[14] else {}
    for key in basis.keys() & {"counts", "allowed", "scored"}:
        basis[key] = tuple(basis[key])
    if "candidates" in basis:
        basis["candidates"] = {key: tuple(of) for key, of in basis["candidates"].items()}
    return Step(*fields, seq=row[0], ts=parse_iso(row[4]), **basis)


def encode(value: Mapping[str, Any], where: str) -> str:
    """Return JSON text that can be stored.

    Raises:
        SessionFailed: the value is not JSON.
    """
    plain = value if type(value) is dict else dict(value)
    try:
        text = compact(plain)
        return text if text.isascii() or is_utf8(text) else _encode_ascii(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise SessionFailed(
            f"is not JSON: {error}",
            where=where,
            hint="return strings, numbers, lists and dicts only",
        ) from error


def event_json(event: Event) -> str:
    """Return an event as text, for a session that may outlive its row in the outbox."""
    return encode(event.document(), event.event_type)


def event_from_json(text: str) -> Event:
    """Read what `event_json` wrote."""
    fields = json.loads(text)
    fields["created_at"] = parse_iso(fields["created_at"])
    fields["priority"] = Priority(fields["priority"])
    return Event(**fields)
