"""An event in words: one line, for those who look what happened."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from agentd.events import (
    ANSWER,
    ASKED,
    BATCH,
    FILE,
    LATER,
    QUESTION,
    TEST,
    Event,
    is_result,
    result_of,
)
from agentd.terminal import counted, plain, shorten

LINE_MAX = 300  # characters
VALUE_MAX = 120  # characters of one value in it
FIELDS_MAX = 12  # of a payload, and members of a list

Payload = Mapping[str, Any]


def event_line(event: Event) -> str:
    """Return what an event says, in one line of at most 300 characters that drives no terminal.

    Its id, time, type, producer and target are not repeated. A payload that is none of its type,
    such as one by hand, is shown field by field, as those of types that nobody here knows are.
    "" for an empty payload.
    """
    try:
        words = _words(event)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        words = _fields(event.payload)
    line = plain(" ".join(words.split()))
    return shorten(line, LINE_MAX)


def _words(event: Event) -> str:
    if is_result(event):
        return result_of(event)[0]
    if (told := WORDS.get(event.event_type)) is None:
        return _fields(event.payload)
    return told(event.payload)


def _started(payload: Payload) -> str:
    return f"{_value(payload['agent'])} runs, version {payload['version'][:8]}"


def _troubled(what: str) -> Callable[[Payload], str]:
    """Return what says of an agent that it is in trouble, and why."""
    return lambda p: f"{_value(p['agent'])} {what}: {_value(p['reason'])}"


def _expired(payload: Payload) -> str:
    events = counted(payload["events"], "event")
    return f"{events} for {_value(payload['agent'])} given up: {_value(payload['reason'])}"


def _command(word: str) -> Callable[[Payload], str]:
    return lambda p: f"{word} {_value(p.get('agent', 'all'))}"


def _fired(payload: Payload) -> str:
    late = payload["late_s"]
    return f"{_value(payload['schedule'])}{f', {late:.0f} s late' if late >= 1 else ''}"


def _file(payload: Payload) -> str:
    return f"{_value(payload['name'])}, {payload['size']:,} bytes, in {_value(payload['folder'])}"


def _batch(payload: Payload) -> str:
    kinds = Counter(str(part["type"]) for part in payload["events"])
    told = (f"{number} {kind}" for kind, number in islice(kinds.items(), FIELDS_MAX))
    return f"{counted(len(payload['events']), 'event')}: {', '.join(told)}"


def _asked(payload: Payload) -> str:
    if payload["kind"] == "question":
        return f"asks: {_value(payload['question'])}"
    given = _fields(payload["args"])
    return f"wants to do {_value(payload['tool'])}{f': {given}' if given else ''}"


def _answer(payload: Payload) -> str:
    why = f", {_value(payload['why'])}" if "why" in payload else ""
    return f"to session {_value(payload['session'])}: {_value(payload['answer'])}{why}"


def _changed(payload: Payload) -> str:
    """Of `repo_fetch`, which is shipped."""
    onto = "on top of" if payload["uncommitted"] else "in"
    return f"{counted(payload['total_files'], 'file')} {onto} {payload['head'][:10]}"


WORDS: Mapping[str, Callable[[Payload], str]] = {
    "agent.started": _started,
    "agent.crashed": _troubled("crashed"),
    "agent.parked": _troubled("rests"),
    "agent.refused": _troubled("cannot be used"),
    "agent.expired": _expired,
    "agent.trigger": lambda p: _fields(p) or "run now",
    "agentd.pause": _command("pause"),
    "agentd.resume": _command("resume"),
    "agentd.reload": _command("reload"),
    "agentd.restart": _command("restart"),
    "agentd.token": lambda _: "the model server's token is another one",
    "agentd.ui": lambda _: "open the page",
    "schedule.fired": _fired,
    FILE: _file,
    BATCH: _batch,
    QUESTION: lambda p: _value(p["question"]),
    LATER: lambda p: _value(p["what"]),
    ASKED: _asked,
    ANSWER: _answer,
    TEST: lambda p: f"a test by {_value(p['ways'])}",
    "repo.changed": _changed,
}


def _fields(payload: Payload) -> str:
    """Say a payload field by field."""
    told = ((name, _value(value)) for name, value in islice(payload.items(), FIELDS_MAX))
    return ", ".join(f"{name}: {value}" for name, value in told if value)


def _value(value: Any) -> str:
    """Say one value; "" for none. What is inside of lists and objects is counted, or listed."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return counted(len(value), "field") if value else ""
    if isinstance(value, list):
        if len(value) <= FIELDS_MAX and not any(isinstance(one, list | dict) for one in value):
            return shorten(", ".join(map(_value, value)), VALUE_MAX)
        return counted(len(value), "item")
    return shorten(str(value), VALUE_MAX)
