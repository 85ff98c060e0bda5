"""The bounded queue: by class, then weight, then round-robin over agents. Not thread-safe."""

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
        self._last_turn: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call: Call, *, retry_after_s: int = 2) -> None:
        """Add a call.

        Raises:
            Full: `size` calls wait already.
        """
        if len(self._waiting) >= self.size:
            raise Full(f"{self.size} calls wait already", retry_after_s=retry_after_s)
        self._waiting.append(call)

    def take(self) -> Call | None:
        """Remove and return the call whose turn it is."""
        if not self._waiting:
            return None
        call = min(self._waiting, key=self._order)
        self._waiting.remove(call)
        self._turns += 1
        self._last_turn.pop(call.agent, None)
        self._last_turn[call.agent] = self._turns
        if len(self._last_turn) > AGENTS_REMEMBERED:
            del self._last_turn[next(iter(self._last_turn))]
        return call

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
