"""A session turn by turn, as people look at it: its decisions, what they came to, and its prompt.

A session may have hundreds of turns, and results of megabytes. So it is given some turns at a time,
and of each long text the beginning.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentd.bus import Bus, sql
from agentd.clock import iso
from agentd.config.agent import Limits
from agentd.errors import UsageError
from agentd.llm.decision import Message
from agentd.sessions.archive import Archive, History, SessionRow
from agentd.sessions.steps import Step, StepKind
from agentd.terminal import cut
from agentd.views.causes import causes

TURNS_MAX = 50  # given at a time
TEXT_CHARACTERS_MAX = 4_000  # of a payload, and of what a step publishes
LINE_CHARACTERS = 90
PROMPT_CHARACTERS_MAX = 1_000_000  # of one message


def session_fields(row: SessionRow) -> dict[str, Any]:
    """Return a session as lists have it; times are UTC."""
    return {
        **vars(row),
        "state": row.state.value,
        "started_at": iso(row.started_at),
        "ended_at": row.ended_at and iso(row.ended_at),
    }


def step_fields(step: Step) -> dict[str, Any]:
    """Return all of a step."""
    publish = [{"event_type": e.event_type, "payload": e.payload} for e in step.publish]
    return {**vars(step), "kind": step.kind.value, "ts": iso(step.ts), "publish": publish}


def session_document(
    bus: Bus, session_id: int, *, first: int = 1, most: int = TURNS_MAX
) -> dict[str, Any]:
    """Return a session with `most` of its turns from turn `first` on; before turn 1 it was opened.

    Each step has its turn (0: before the first), its payload as text, where the session's active
    time was spent on it (`begin_s`, `end_s`), and for a decision its tokens and the margins of its
    labels. `causes` is its event's tree, `replay` the command that runs the session again.

    Raises:
        UsageError: there is none with this id.
        SessionFailed: its row cannot be read.
    """
    row = Archive(bus).get(session_id)
    model, window, share, active_ms = bus.db.run(sql.SESSION_WINDOW, (session_id,))[0]
    first = max(1, first)
    begin = 0 if first == 1 else _seq(bus, session_id, first)
    given = {
        "session": session_id,
        "most": TEXT_CHARACTERS_MAX,
        "first": begin,
        "end": _seq(bus, session_id, first + most),
    }
    return {
        **session_fields(row),
        "outcome": None if row.outcome is None else _text(row.outcome),
        "model": model,
        "window": window,
        "share": Limits().context_share if share is None else share,
        "active_s": active_ms / 1000,
        "first": first,
        "next": first + most if first + most <= row.turns else None,
        "previous": max(1, first - most) if first > 1 else None,
        "steps": _steps(bus.db.run(sql.TIMELINE, given), first),
        "causes": causes(bus, row.event_id),
        "replay": f"agentd replay {session_id}",
    }


def prompt_of(history: History, turn: int) -> list[Message]:
    """Return the exact messages that the model was asked with at a turn.

    Raises:
        UsageError: there is no such turn, no model was asked, or the prompt is not kept.
    """
    from agentd.recordings.recording import prompt_at, texts_of  # needed for this alone

    where = f"session {history.row.id}: turn {turn}"
    decided = [step for step in history.steps if step.kind is StepKind.DECISION]
    if not 1 <= turn <= len(decided):
        turns = len(decided)
        raise UsageError(f"it has turns 1 to {turns}" if turns else "it has no turns", where=where)
    if "prompt" not in history.basis:
        raise UsageError("its prompt is not kept: it ran on an older agentd", where=where)
    if decided[turn - 1].planned:
        raise UsageError("it was planned by the agent: no model was asked", where=where)
    return prompt_at(turn, history.basis["prompt"], history.steps, texts_of(history.steps))


def turn_document(bus: Bus, session_id: int, turn: int) -> dict[str, Any]:
    """Return one turn: its prompt, the model's answer as it came, and its steps in whole.

    Raises:
        UsageError: there is no such session or turn.
        SessionFailed: it cannot be read.
    """
    history = Archive(bus).history(session_id)
    number, steps = 0, []
    for step in history.steps:
        number += step.kind is StepKind.DECISION
        if number == turn:
            steps.append(step)
    problem, messages = None, []
    try:
        messages = prompt_of(history, turn)
    except UsageError as error:
        if not steps:
            raise
        problem = error.what
    return {
        "session": session_id,
        "agent": history.row.agent,
        "turn": turn,
        "turns": history.row.turns,
        "problem": problem,
        "messages": [
            {**message, "content": cut(message["content"], PROMPT_CHARACTERS_MAX)}
            for message in messages
        ],
        "raw": steps[0].raw,
        "steps": [step_fields(step) for step in steps],
    }


def _seq(bus: Bus, session_id: int, turn: int) -> int:
    """Return where a turn begins; beyond the last one a number that no step has."""
    rows = bus.db.run(sql.NTH_DECISION, (session_id, turn - 1))
    return int(rows[0][0]) if rows else 1 << 60


def _steps(rows: list[Any], first: int) -> list[dict[str, Any]]:
    """Read rows of `sql.TIMELINE`, of which the first decision is that of turn `first`."""
    found: list[dict[str, Any]] = []
    turn = first - 1
    for row in rows:
        seq, kind, name, payload, length, ts, trusted, staged, staged_length = row[:9]
        prompt, cached, completion, took_ms, active_ms, basis = row[9:]
        turn += kind == StepKind.DECISION
        about = _object(basis)
        end = active_ms / 1000
        begin = found[-1]["end_s"] if found else 0.0
        if kind == StepKind.DECISION or not found:
            begin = max(begin, end - (took_ms or 0) / 1000)
        found.append(
            {
                "seq": seq,
                "turn": turn,
                "kind": kind,
                "type": name,
                "payload": _cut(payload, length),
                "ts": ts,
                "trusted": bool(trusted),
                "effects": _cut(staged, staged_length) if staged else None,
                "prompt_tokens": prompt,
                "cached_tokens": cached,
                "completion_tokens": completion,
                "duration_ms": took_ms,
                "begin_s": begin,
                "end_s": end,
                "attempt": about.get("attempt", 1),
                "context_tokens": about.get("context_tokens"),
                "allowed": about.get("allowed"),
                "finish_reason": about.get("finish_reason", "stop"),
                "planned": about.get("planned", False),
                "asks": about.get("asks", False),
                "about": _text(about["about"]) if "about" in about else None,
                "labels": _labels(about.get("labels", {})),
            }
        )
    return found


def _labels(recorded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of each label: how it was taken, and by how much it won."""
    keys = ("by", "margin", "unsure", "probabilities")
    return [{"field": name, **{k: of.get(k) for k in keys}} for name, of in recorded.items()]


def _object(text: str | None) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Return JSON in one line where it is short, else in lines."""
    short = json.dumps(value, ensure_ascii=False, default=str)
    if len(short) <= LINE_CHARACTERS:
        return short
    return cut(json.dumps(value, ensure_ascii=False, indent=2, default=str), TEXT_CHARACTERS_MAX)


def _cut(text: str, length: int) -> str:
    """Return JSON for people: in lines where all of it is there, else its beginning."""
    if length > len(text):
        return f"{text}...[cut {length - len(text)} characters]"
    try:
        return _text(json.loads(text))
    except (ValueError, RecursionError):
        return text  # by a person's SQL
