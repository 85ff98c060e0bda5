"""What agents take of the machine, between two answers of the supervisor."""

from collections.abc import Mapping
from typing import Any

from agentd.process.usage import Taken, percents


class MachineUse:
    """What was measured in two answers of the supervisor; either may be missing."""

    def __init__(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        first, last = _read(before), _read(after)
        self._used = last[1]
        self._percents = percents(first[1], last[1], last[0] - first[0])
        self.hands: dict[str, int] = (after or {}).get("hands", {})  # their processes, by agent

    def of(self, *pids: int | None) -> dict[str, Any]:
        """Return {cpu_percent, memory_bytes} of some processes together; null: not known."""
        known = [pid for pid in pids if pid in self._used]
        shares = [self._percents[pid] for pid in known if pid in self._percents]
        return {
            "cpu_percent": round(sum(shares), 1) if shares else None,
            "memory_bytes": sum(self._used[p].memory_bytes for p in known) if known else None,
        }


def _read(answer: Mapping[str, Any] | None) -> tuple[float, dict[int, Taken]]:
    found = (answer or {}).get("processes", {"at": 0.0, "of": {}})
    return found["at"], {int(pid): Taken(**used) for pid, used in found["of"].items()}
