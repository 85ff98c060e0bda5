"""agentd: many small private agents on one local model, each a loop, a file and a cursor."""

__version__ = "0.1.0"
