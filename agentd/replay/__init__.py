"""Replay: a recorded session runs again, with its recorded decisions in the model's place.

`record.py` makes a recording of a session in the database, with a fixture of what its tools read
(`capture.py`) and without its secrets.

`replay.py` replays it: the real loop, agent and tools, but no model, no network (`offline.py`), no
effects (`sandbox.py`) and no daemon's bus. `code.py` finds the agent's code, `fixture.py` and
`folders.py` put up what it saw, `agent.py` stands between loop and agent, `results.py` has what was
recorded, and `tape.py` plays the recorded steps and compares each new one with them.

`live.py` asks a real model again, `many.py` replays many. `session.py` runs an agent without any
recording, for tests and evaluations.
"""
