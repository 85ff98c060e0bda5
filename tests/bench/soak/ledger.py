"""Books on every request: answered, refused with a reason, or given up by its client."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.model.client import LATE, Answer

Check = Callable[[Any], bool]  # whether a decoded answer fits its schema
ALWAYS = ("queue_full", "loading", "deadline")  # reasons that any request may get
EXAMPLES_MAX = 5


@dataclass
class Ledger:
    """Counts; and what nobody can explain, in words."""

    sent: int = 0
    answered: int = 0
    closed_off: int = 0  # of the answered: out of tokens, closed by the server
    cancelled: int = 0  # by the client
    refused: Counter[str] = field(default_factory=Counter)  # by the server's code
    lost: list[str] = field(default_factory=list)
    illegal: list[str] = field(default_factory=list)  # answers that do not fit their schema

    def book(
        self,
        what: str,
        answer: Answer,
        *,
        refusals: Sequence[str] = (),
        leaves: bool = False,
        check: Check | None = None,
    ) -> None:
        """Enter one request. `refusals` are the codes of which one must come.

        `leaves` says that its client hangs up after a while, or at its deadline.
        """
        self.sent += 1
        if leaves and (answer.hung_up or answer.error == LATE):
            self.cancelled += 1
        elif answer.status and answer.error:
            expected = (*refusals, *ALWAYS)
            if answer.error in expected:
                self.refused[answer.error] += 1
            else:
                self.lost.append(f"{what}: {answer.status} {answer.error}")
        elif answer.answered and not refusals:
            self.answered += 1
            self._look(what, answer, check)
        else:
            wanted = f", not {' or '.join(refusals)}" if refusals else ""
            self.lost.append(f"{what}: {answer.status} {answer.error or answer.finish}{wanted}")

    @property
    def open(self) -> int:
        """Requests that are in none of the books."""
        booked = self.answered + self.cancelled + sum(self.refused.values()) + len(self.lost)
        return self.sent - booked

    def _look(self, what: str, answer: Answer, check: Check | None) -> None:
        self.closed_off += answer.finish == "length"
        if check is None:
            return
        try:
            good = check(json.loads(answer.text))
        except ValueError:
            good = False
        if not good:
            self.illegal.append(f"{what}, {answer.finish}: {answer.text[:200]}")

    def document(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "closed_off": self.closed_off,
            "cancelled": self.cancelled,
            "refused": dict(self.refused),
            "lost": self.lost[:EXAMPLES_MAX],
            "lost_count": len(self.lost),
            "illegal": self.illegal[:EXAMPLES_MAX],
            "illegal_count": len(self.illegal),
        }
