"""The bus: an outbox that everyone appends to and a cursor per lane, in one SQLite file."""

from agentd.bus.bus import AgentRow, Bus, LastRun

__all__ = ["AgentRow", "Bus", "LastRun"]
