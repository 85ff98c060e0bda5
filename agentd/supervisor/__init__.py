"""The supervisor: desired agents against running processes, and the model server.

`main.py` takes the lock, `supervisor.py` reacts (signals, files, commands) and keeps the order,
`agents.py` and `model.py` hold what should run, `children.py` the processes, `records.py` the bus.
`restart.py` has the rules of restarting, `client.py` asks a running supervisor. Nothing is imported
here: a command that asks must answer at once.
"""
