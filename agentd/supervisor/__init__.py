"""The supervisor: desired agents against running processes, and the model server.

`main` takes the lock, `shell` reacts (signals, files, commands) and keeps the order, `agents` and
`model` hold what should run, `children` the processes, `records` the bus. The rules of restarting
are outside, in `agentd.restart`.
"""

from agentd.supervisor.argv import Commands
from agentd.supervisor.main import run

__all__ = ["Commands", "run"]
