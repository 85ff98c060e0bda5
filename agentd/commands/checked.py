"""What `agentd check` knows of one file, for its report and for the looks at all files together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentd.errors import ConfigError

if TYPE_CHECKING:
    from agentd.config.agent import AgentConfig


@dataclass(frozen=True)
class Checked:
    """What the check of one file came to: a problem, or what the agent reads and writes."""

    name: str
    problem: ConfigError | None
    waiting: bool = False  # incomplete, not mistaken; an agent's fails the check all the same
    enabled: bool = True  # False: nothing is started, so a problem fails nothing yet
    subscribe: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asks: Mapping[str, str] = field(default_factory=dict)  # decisions, and why
    config: "AgentConfig | None" = None

    @property
    def wrong(self) -> bool:
        """Whether the check as a whole fails for it."""
        return self.problem is not None and self.enabled and not self._passing

    @property
    def _passing(self) -> bool:
        """Whether this may be right all the same: a server that is down, or may take any name."""
        return self.waiting and self.name == "agentd"
