"""The context is the event log: XML-tagged JSON, append-only, bounded in the model's own tokens.

    <event type="repo.changed" ts="2026-01-15T10:30:00Z" trusted="no">
    {"repo":"project","files":3}
    </event>

The text of an earlier event never changes, so that the model server can reuse its cache.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agentd.clock import parse_iso
from agentd.errors import PromptTooLong, SessionFailed

LOG_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
EVENT = re.compile(
    r'<event type="(?P<type>[^"]+)" ts="(?P<ts>[^"]+)" trusted="(?P<trusted>yes|no)">\n'
    r"(?P<json>[^\n]*)\n</event>\n?"
)
# In JSON these three stand only inside strings, where the escape means the same: no content can
# close the tag, forge an event, or spell a chat template's special token such as <|im_end|>.
ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))
CUT_ROUNDS = 8  # shortening steps before a value is replaced by a plain excerpt
CUT_MARKER = "...[cut {} {}]"


@dataclass(frozen=True)
class LogEvent:
    """One event of the log, as the model sees it."""

    type: str
    ts: datetime
    payload: Mapping[str, Any]
    trusted: bool


def render(event: LogEvent) -> str:
    """Return the event's text. The JSON is compact, on one line, with `<`, `>` and `&` escaped."""
    if not LOG_TYPE.fullmatch(event.type):
        raise ValueError(f"{event.type!r} cannot stand in a tag")
    body = json.dumps(event.payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        body.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8: write all beyond ASCII as \uXXXX
        body = json.dumps(event.payload, separators=(",", ":"), allow_nan=False)
    for character, escape in ESCAPES:  # str.translate takes 30 times as long
        body = body.replace(character, escape)
    trusted = "yes" if event.trusted else "no"
    ts = event.ts.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f'<event type="{event.type}" ts="{ts}" trusted="{trusted}">\n{body}\n</event>\n'


def parse(text: str) -> list[LogEvent]:
    """Read a rendered log back.

    Raises:
        ValueError: the text holds anything besides whole events.
    """
    events, position = [], 0
    while position < len(text):
        match = EVENT.match(text, position)
        if match is None:
            found = text[position : position + 40]
            raise ValueError(f"no event at character {position}: {found!r}")
        events.append(
            LogEvent(
                match["type"],
                parse_iso(match["ts"]),
                json.loads(match["json"]),
                match["trusted"] == "yes",
            )
        )
        position = match.end()
    return events


class Context:
    """A session's log with its token budget.

    `budget` is `share` of the model's window; the fixed part of the prompt counts too. `reserve`
    tokens of it are kept free for the note that announces the last turn.

    Raises:
        PromptTooLong: the fixed part alone fills it.
    """

    def __init__(
        self,
        count: Callable[[str, int], int],
        *,
        fixed: int,
        window: int,
        share: float,
        reserve: int,
    ) -> None:
        self._count = count
        self._parts: list[str] = []
        self.tokens = self._fixed = fixed
        self.rough = False  # whether `tokens` may hold bytes of an event, until `settle`
        self.budget = int(window * share)
        self._reserve = reserve
        if fixed + reserve >= self.budget:
            raise PromptTooLong(
                f"instructions and tools take {fixed} of the {self.budget} tokens that a prompt "
                f"may have ({100 * share:g}% of the model's window of {window})",
                where="[limits] context_share",
                hint="raise it; or fewer tools, a shorter `done`, or a model with a larger window",
            )

    @property
    def text(self) -> str:
        """The log as the model sees it."""
        return "".join(self._parts)

    @property
    def space(self) -> int:
        """Tokens for a log that holds one event, the reserve not counted."""
        return self.budget - self._reserve - self._fixed

    @property
    def room(self) -> int:
        """Tokens left for events, the reserve not counted."""
        return self.budget - self._reserve - self.tokens

    def measure(self, event: LogEvent, within: int = 0) -> int:
        """Return the event's tokens; `within` is told to the tokenizer: see `LLM.count`."""
        self.rough = self.rough or within > 0
        return self._count(render(event), within)

    def settle(self, tokens: int) -> None:
        """Take over how many tokens the prompt has, log included, from who has read it."""
        self.tokens, self.rough = tokens, False

    def add(self, event: LogEvent, tokens: int | None = None) -> None:
        """Append the event; `tokens` is what `measure` said, where it was asked.

        Raises:
            SessionFailed: not even the reserve holds it.
        """
        text = render(event)
        self.tokens += self._count(text, 0) if tokens is None else tokens
        if self.tokens > self.budget:
            raise SessionFailed(
                f"the prompt would take {self.tokens} tokens; {self.budget} are allowed",
                where=event.type,
                hint="raise [limits] context_share, or use a model with a larger window",
            )
        self._parts.append(text)

    def cut(self, event: LogEvent, limit: int, within: int = 0) -> tuple[LogEvent, int]:
        """Return the event, shortened with visible markers to `limit` tokens, and its tokens.

        What cannot be made that short is returned as short as it gets. `within`, no more than
        `limit`: see `measure`.
        """
        size = self.measure(event, within)
        if size <= limit:
            return event, size
        shorter, characters = event, len(render(event))
        for _ in range(CUT_ROUNDS):
            characters = int(characters * limit / size * 0.9)
            shorter = replace(event, payload=_shorten(event.payload, characters))
            size = self.measure(shorter)
            if size <= limit:
                return shorter, size
        excerpt = json.dumps(event.payload)[: max(0, limit // 4)]
        shorter = replace(event, payload={"cut": excerpt + "..."})
        return shorter, self.measure(shorter)


def _shorten(value: Any, characters: int) -> Any:
    """Return JSON `value` in about `characters`: long strings and lists lose their ends."""
    if isinstance(value, str):
        if len(value) <= characters:
            return value
        kept = max(0, characters - len(CUT_MARKER) - 12)
        return value[:kept] + CUT_MARKER.format(len(value) - kept, "characters")
    if isinstance(value, Mapping):
        sizes = {key: len(json.dumps(item)) + len(key) + 4 for key, item in value.items()}
        return {
            key: _shorten(value[key], share - len(key) - 4)
            for key, share in _shares(sizes, characters).items()
        }
    if isinstance(value, list):
        kept_items: list[Any] = []
        left = characters - 30
        for item in value:
            size = len(json.dumps(item)) + 1
            if size > left:
                if not kept_items and left > 30:
                    kept_items.append(_shorten(item, left))
                break
            kept_items.append(item)
            left -= size
        if len(kept_items) < len(value):
            kept_items.append(CUT_MARKER.format(len(value) - len(kept_items), "items"))
        return kept_items
    return value


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Share `total` among the keys: small ones get what they need, large ones the rest equally."""
    shares: dict[str, int] = {}
    left, waiting = total, len(sizes)
    for key, size in sorted(sizes.items(), key=lambda item: item[1]):
        shares[key] = min(size, max(0, left // waiting))
        left -= shares[key]
        waiting -= 1
    return {key: shares[key] for key in sizes}
