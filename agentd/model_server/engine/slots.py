"""Who gets a slot: how many rows this machine decodes at once, and what memory they may take."""

from collections.abc import Sequence

from agentd.model_server.calls import RANK, Call, Refused
from agentd.model_server.engine.batch import Row
from agentd.model_server.engine.memory import RowBytes
from agentd.model_server.engine.prefill import Prefill
from agentd.states import Priority

SLOTS_MAX = 16  # rows; more would make each of them slower than a person likes to wait
STEP_S = 0.25  # a decoding step of all rows; a machine that needs longer for them has fewer slots
KEPT_FOR_PERSONS = 1  # slots, where there are more than a few
FEW_SLOTS = 4
# Prompts in prefill: a long one and one that overtakes it, or as many as are read in so many
# seconds. More wait in the fair queue, where a person still goes first and no deadline runs. Two
# calls may score besides, for minutes.
PREFILLING_MAX = 2
SHORT_S = 1.0


class Slots:
    """Rows that may decode together: `most`, where the machine is fast enough."""

    def __init__(self, most: int, row_bytes: RowBytes, prefill: Prefill) -> None:
        self._most, self._row_bytes, self._prefill = most, row_bytes, prefill

    @property
    def count(self) -> int:
        """Rows that this machine decodes in a step of a bearable length."""
        return max(1, min(self._most, int(self._prefill.best_rate * STEP_S)))

    def fit(self, call: Call, read: Sequence[Row], batch_bytes: int) -> bool:
        """Whether there is a slot and memory: a batch pads, so rows count as the longest does.

        `read` are the rows whose prompts are read.

        Raises:
            Refused: it would not fit if it were alone.
        """
        length = call.length
        if self._row_bytes(length) > batch_bytes:
            raise Refused(
                f"{length} tokens of prompt and answer take more memory than the "
                f"{batch_bytes / 1e9:.1f} GB that there is for them",
                code="context_length_exceeded",
                param="messages",
            )
        rows = [row.call for row in (*read, *self._prefill.rows)]
        longest = max([length, *(other.length for other in rows)])
        kept = KEPT_FOR_PERSONS if self.count > FEW_SLOTS else 0
        slots = self.count - (0 if call.rank == RANK[Priority.PERSON] else kept)
        wanted = self._row_bytes(longest, len(rows) + 1)
        return len(rows) < slots and wanted <= batch_bytes and self._soon_read(call)

    def _soon_read(self, call: Call) -> bool:
        """Whether there is a place in prefill."""
        alike = [r for r in self._prefill.rows if bool(r.call.scoring) is bool(call.scoring)]
        before = [row for row in alike if row.call.rank <= call.rank]
        if len(before) < PREFILLING_MAX or call.scoring:
            return len(before) < PREFILLING_MAX
        tokens = self._prefill.unknown(call.prompt) + sum(map(self._prefill.pending, alike))
        return tokens <= self._prefill.best_rate * SHORT_S
