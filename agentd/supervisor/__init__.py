"""The supervisor: desired agents against running processes, and the model server.

`main.py` takes the lock, `supervisor.py` reacts (signals, files, commands) and keeps the order,
`agents.py` and `model.py` hold what should run, `children.py` the processes (`argv.py`, and
`child_output.py` what they print), `records.py` the bus. `reload.py` notices changed files;
`sift.py` and `checks.py` look at them before an agent is made of one. `home_files.py` and
`housekeeping.py` watch over the home. `restart.py` has the rules of restarting, `client.py` asks a
running supervisor. Nothing is imported here: a command that asks must answer at once.
"""
