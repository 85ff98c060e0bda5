"""The bounded queue: by class, then weight, then round-robin over agents. Not thread-safe."""

from collections import OrderedDict

from agentd.model_server.calls import Call, Full
from agentd.states import Priority

RANK = {Priority.PERSON: 0, Priority.EVENT: 1, Priority.SCHEDULE: 2}
AGENTS_REMEMBERED = 1024  # agents whose last turn is kept for the round-robin


class FairQueue:
    """Calls that wait for a slot.

    A person's call goes before an event's, an event's before a schedule's; within a class weight
    1 goes before 9; within a weight the agent goes first that was served longest ago.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._waiting: list[Call] = []
        self._turns = 0
        self._last_turn: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call: Call, *, retry_after_s: int = 2) -> Call | None:
        """Add a call; in a full queue it takes the place of the last one of a lower class.

        Returns the call that lost its place.

        Raises:
            Full: `size` calls of this class or a higher one wait already.
        """
        displaced = None
        if len(self._waiting) >= self.size:
            displaced = max(self._waiting, key=self._order)
            if RANK[displaced.priority] <= RANK[call.priority]:
                raise Full(f"{self.size} calls wait already", retry_after_s=retry_after_s)
            self._waiting.remove(displaced)
        self._waiting.append(call)
        return displaced

    def next(self) -> Call | None:
        """Return the call whose turn it is. It stays in the queue until it is taken."""
        return min(self._waiting, key=self._order, default=None)

    def take(self, call: Call) -> None:
        """Remove a call: its agent has had its turn."""
        self._waiting.remove(call)
        self._turns += 1
        self._last_turn.pop(call.agent, None)
        self._last_turn[call.agent] = self._turns
        if len(self._last_turn) > AGENTS_REMEMBERED:
            self._last_turn.popitem(last=False)

    def remove_cancelled(self) -> list[Call]:
        """Remove and return the calls that nobody waits for any more."""
        gone = [call for call in self._waiting if call.cancelled]
        if gone:
            self._waiting = [call for call in self._waiting if not call.cancelled]
        return gone

    def clear(self) -> list[Call]:
        """Remove and return all."""
        gone, self._waiting = self._waiting, []
        return gone

    def _order(self, call: Call) -> tuple[int, int, int, int]:
        return (
            RANK[call.priority],
            call.weight,
            self._last_turn.get(call.agent, 0),
            call.number,
        )
