"""What an agent remembers at its model's word, and the events that it may find. In the worker.

Results of other agents are read by an agent's plan alone: which ones, its file says.

Keys of a model have a beginning of their own: it cannot overwrite what tools and the agent's code
remember. What was remembered after reading others' words is others' words when it comes back.
"""

from datetime import timedelta
from typing import Any

from agentd.bus.facts import REMEMBERED
from agentd.clock import EPOCH, iso
from agentd.config.agent import SUBSCRIPTION
from agentd.events import Event, Result, is_result, result_of
from agentd.tools.base import ToolCall

KEY_CHARACTERS = 60
VALUE_CHARACTERS = 1_000
WORDS_CHARACTERS = 200
KEYS = 100  # the oldest goes when there are more
RECALLED = 20  # at once, the newest first
RECALLED_CHARACTERS = 8_000
TYPES = rf"^(?:\*|{SUBSCRIPTION.pattern})$"  # of events: one, a prefix of some, or all
EVENTS = 10  # found at once
QUESTION_CHARACTERS = 2_000  # of a question whose words are looked for
TITLE_CHARACTERS = 200
RESULTS = 50  # of other agents, at once
NEWS = "results"  # begins the remembered facts: up to which event the results were read
FIRST_TIME = timedelta(days=1)  # how far back is read, where nothing was read before
MINUTE = len("2026-01-31T12:00")


def remember(call: ToolCall, key: str, value: str) -> Result:
    """Keep a text under a key, in the place of what was there; an empty one forgets it.

    It takes effect when the session ends.
    """
    key = " ".join(key.split())
    facts: dict[str, Any] = {REMEMBERED + key: None}
    if value:
        at = iso(call.clock.now())
        facts[REMEMBERED + key] = {"text": value, "trusted": call.session.trusted(), "at": at}
        others = [(at, other) for other, _, _, at in _entries(call) if other != key]
        for _, oldest in sorted(others)[: max(0, len(others) + 1 - KEYS)]:
            facts[REMEMBERED + oldest] = None
    return Result({"key": key, "from": "the next session on"}, remember=facts)


def recall(call: ToolCall, words: str | None) -> Result:
    """Give what is remembered, the newest first; with `words` only what holds all of them."""
    wanted = (words or "").casefold().split()
    found: list[dict[str, str]] = []
    size, more, trusted = 0, 0, True
    for key, text, trust, _ in sorted(_entries(call), key=lambda entry: entry[3], reverse=True):
        if not all(word in f"{key} {text}".casefold() for word in wanted):
            continue
        size += len(key) + len(text)
        if len(found) == RECALLED or size > RECALLED_CHARACTERS:
            more += 1
            continue
        found.append({"key": key, "value": text})
        trusted = trusted and trust
    value: dict[str, object] = {"found": found}
    if more:
        value["more"] = more
    return Result(value, trusted=trusted)


def _entries(call: ToolCall) -> list[tuple[str, str, bool, str]]:
    """Return what is remembered: key, text, whether it is trusted, when."""
    found = []
    for key in call.session.memory:
        fact = call.session.memory.get(key)
        if key.startswith(REMEMBERED) and isinstance(fact, dict):
            text, at = str(fact.get("text", "")), str(fact.get("at", ""))
            found.append((key.removeprefix(REMEMBERED), text, fact.get("trusted") is True, at))
    return found


def search_events(call: ToolCall, words: str) -> Result:
    """Give the newest events that hold all the words, of those that the agent may read."""
    found = []
    for one in call.session.events(words, EVENTS, call.check):
        event, title = one.event, one.event.payload.get("title")
        item = {"id": event.id, "type": event.event_type, "at": iso(event.created_at)[:MINUTE]}
        if isinstance(title, str):
            item["title"] = title[:TITLE_CHARACTERS]
        found.append({**item, "text": one.excerpt})
    return Result({"found": found}, trusted=False)


def find_events(call: ToolCall, words: str, types: list[str]) -> Result:
    """Give the passages that go best with a question, of what others published of these types."""
    found = [
        {**_told(one.event), "text": one.text, "share": one.share}
        for one in call.session.passages(words, types, EVENTS, call.check)
    ]
    return Result({"found": found}, trusted=False)


def read_results(call: ToolCall, types: list[str]) -> Result:
    """Give what other agents found since last time: the newest, the older ones counted.

    The first time it is what they found in the last day.
    """
    key = f"{NEWS}:{','.join(sorted(types))}"
    known = call.session.memory.get(key)
    seen = isinstance(known, int)
    since = iso(EPOCH if seen else call.clock.now() - FIRST_TIME)
    found = call.session.news(types, known if seen else 0, since, RESULTS)
    value: dict[str, Any] = {"results": [_told(event) for event in found.events]}
    if found.more:
        value["more"] = found.more
    return Result(value, trusted=False, remember={key: found.until})


def _told(event: Event) -> dict[str, Any]:
    """Return what is said of a result: its title, and how many rows it has."""
    told: dict[str, Any] = {"id": event.id, "agent": event.agent, "type": event.event_type}
    told["at"] = iso(event.created_at)[:MINUTE]
    if is_result(event):
        told["title"] = result_of(event)[0]
    rows = event.payload.get("rows")
    return {**told, "rows": len(rows)} if isinstance(rows, list) else told
