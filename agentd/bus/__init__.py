"""The bus: an outbox that everyone appends to and a cursor per lane, in one SQLite file.

`bus.py` puts the parts together. Of events: `outbox.py` publishes them, `event_rows.py` reads them,
`search.py` finds them by words, a question's by `question_words.py`, `lanes.py` hands them to
consumers one by one, `doorbell.py` says whom a commit wakes (the sockets are in `wake.py`),
`dead.py` keeps what was given up, `batches.py` makes one of several. Of agents: `agent_rows.py`,
`schedules.py`, `facts.py`, `later.py` (events to come) and `seen.py` (files). Under them:
`database.py` is a connection and its transactions, `busy.py` how long it waits for a lock, `sql.py`
has every statement, `schema.py` opens the file, `migrations.py` has every table and `strict.py`
what its columns take, `ours.py` knows our file from another's, `json_text.py` is JSON as it lies
there. `bus_thread.py` is a bus in a thread.
"""

from agentd.bus.agent_rows import AgentRow
from agentd.bus.bus import Bus
from agentd.bus.schema import Opening

__all__ = ["AgentRow", "Bus", "Opening"]
