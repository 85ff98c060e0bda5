"""The bus: an outbox that everyone appends to and a cursor per lane, in one SQLite file."""

from agentd.bus.bus import AgentRow, Bus, LastRun
from agentd.bus.schema import Opening

__all__ = ["AgentRow", "Bus", "LastRun", "Opening"]
