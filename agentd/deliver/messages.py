"""Messages as they are sent: one thing with its text, or several in a line each. Plain text."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentd.deliver.news import Item, Kind

LINES_MAX = 30  # of a message about several things; the rest is counted
BY_REPLY = "Reply to this message with your answer, or on the machine:"
BY_HAND = "Only on the machine:"


@dataclass(frozen=True)
class Message:
    """One message. `key`: the same for the same message, also when it is sent again."""

    key: str
    title: str
    text: str
    question: Item | None = None  # what a reply to it answers


def one_or_many(items: Sequence[Item], more: int = 0, *, replies: bool = False) -> Message:
    """Return the message about these items, and `more` that it only counts.

    `replies`: it is sent where a person can reply.
    """
    last = items[-1]
    key = f"{last.key}-{last.at.timestamp():.0f}"
    if len(items) == 1 and not more:
        question = last if last.kind is Kind.QUESTION and replies else None
        return Message(key, last.title, _text(last, replies=question is not None), question)
    counts = Counter(item.kind for item in items)
    title = ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts.items())
    lines = [_entry(item) for item in items[:LINES_MAX]]
    if left := max(0, len(items) - LINES_MAX) + more:
        lines.append(f"and {left} more: agentd results")
    return Message(key, f"{title}, and more" if more else title, "\n".join(lines))


def pieces(text: str, limit: int) -> Iterator[str]:
    """Yield a text in pieces of at most `limit` UTF-16 code units, at line ends where it can."""
    while text:
        end = units = 0
        for character in text:
            units += 2 if ord(character) > 0xFFFF else 1
            if units > limit:
                break
            end += 1
        if end < len(text) and (line := text.rfind("\n", end // 2, end)) > 0:
            end = line + 1
        yield text[:end]
        text = text[end:]


def _text(item: Item, *, replies: bool) -> str:
    match item.kind:
        case Kind.RESULT:
            return item.text or f"from {item.agent}"
        case Kind.TEST:
            return item.text
        case Kind.QUESTION if replies:
            return f"{BY_REPLY} {item.todo}"
        case Kind.APPROVAL:
            return f"{BY_HAND} {item.todo}"
    return item.todo


def _entry(item: Item) -> str:
    if item.kind is Kind.RESULT:
        return f"- {item.agent}: {item.title}"
    return f"- {item.title} ({item.todo})"
