"""Replay: a recorded session runs again, with its recorded decisions in the model's place.

A session as a value is `recording.py`, as a file `text.py` (`reader.py`, `writer.py`, `lines.py`).
`take.py` makes one of a session in the database, with a fixture of what its tools read
(`capture.py`, `gitpack.py`) and without its secrets (`redact.py`, `rules.py`).

`run.py` replays it: the real loop, agent and tools, but no model, no network (`offline.py`), no
effects (`confined.py`) and no daemon's bus. `code.py` finds the agent's code, `fixture.py` and
`places.py` put up what it saw, `actor.py` stands between loop and agent, and `tape.py` plays the
recorded steps and compares each new one with them (`ends.py`, `results.py`, `difference.py`).

`live.py` asks a real model again, by `told.py`; `many.py` replays many. `stage.py` runs an agent
without any recording, for tests and evaluations.
"""
