"""The bounded queue: by class, then weight, then round-robin over agents. Not thread-safe."""

from collections import OrderedDict

from agentd.model_server.calls import RANK, Call, Full

AGENTS_REMEMBERED = 1024  # agents whose last turn is kept for the round-robin


class FairQueue:
    """Calls that wait for a slot.

    A person's call goes before an event's, an event's before a schedule's; within a class weight
    1 goes before 9; within a weight the agent goes first that was served longest ago.

    Guests, which are other programs than agents, have every second turn at most while an agent's
    call waits, and the places in a full queue that agents leave them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._waiting: list[Call] = []
        self._turns = 0
        self._guests_turn = True  # whether a guest may be next before an agent
        self._last_turn: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call: Call, *, retry_after_s: int = 2) -> Call | None:
        """Add a call; in a full queue it takes the place of the last one of a lower class.

        An agent's call takes a guest's place before that.

        Returns the call that lost its place.

        Raises:
            Full: `size` calls of this class or a higher one wait already.
        """
        displaced = None
        if len(self._waiting) >= self.size:
            displaced = max(self._waiting, key=lambda each: (each.guest, *self._order(each)))
            if (displaced.guest, displaced.rank) <= (call.guest, call.rank):
                raise Full(f"{self.size} calls wait already", retry_after_s=retry_after_s)
            self._waiting.remove(displaced)
        self._waiting.append(call)
        return displaced

    def next(self, *, guests: bool = True) -> Call | None:
        """Return the call whose turn it is. It stays in the queue until it is taken.

        `guests`: whether it may be a guest's.
        """
        agents = [call for call in self._waiting if not call.guest]
        waiting = self._waiting if guests and (self._guests_turn or not agents) else agents
        return min(waiting, key=self._order, default=None)

    def take(self, call: Call) -> None:
        """Remove a call: its agent has had its turn."""
        self._waiting.remove(call)
        self._guests_turn = not call.guest
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

    def _order(self, call: Call) -> tuple[int, int, int, int, int]:
        return (
            call.rank,
            call.weight,
            RANK[call.priority],  # a guest's person goes before guests
            self._last_turn.get(call.agent, 0),
            call.number,
        )
