"""What waits for a person: questions, and approvals with their exact arguments."""

import json
from collections.abc import Callable
from typing import Any

from agentd.approval.unanswered import Unanswered, unanswered
from agentd.bus import Bus
from agentd.clock import iso


def open_questions(
    bus: Bus,
    key: bytes | None = None,
    odd: Callable[[int, str], object] = lambda _id, _why: None,
) -> list[dict[str, Any]]:
    """Return what waits, the oldest first, as `agentd answer --json` shows it.

    `key` is the one of a person's answers. Without it an answer that is on its way is believed:
    who forged it has hidden a question until its agent reads that, and nothing else. `odd` is told
    of a session that cannot be read, and why.
    """
    return [document(one) for one in unanswered(bus, key, odd=odd)]


def document(one: Unanswered) -> dict[str, Any]:
    """Return one of them."""
    answer = None if one.answer is None else one.answer.payload["answer"]
    return {
        "agent": one.agent,
        **one.asked.document(),
        "since": iso(one.asked.since),
        "answer": answer,
    }


def exact(value: Any) -> list[str]:
    """Return an argument exactly, as JSON on one line; a text of several lines as these.

    In those only backslashes and what cannot be seen are written as escapes.
    """
    if not isinstance(value, str) or "\n" not in value:
        return [json.dumps(value, ensure_ascii=False)]
    return [
        json.dumps(line, ensure_ascii=False)[1:-1].replace('\\"', '"') for line in value.split("\n")
    ]
