"""Replay: a recorded session runs again, with its recorded decisions in the model's place.

`recorder.py` makes a recording of a session in the database, with a fixture of what its tools read
(`capture.py`) and without its secrets.

`replay.py` replays it: the real loop, agent and tools, but no model, no network (`offline.py`), no
effects (`no_effects.py`, `fixture_toolbox.py`) and no daemon's bus (`replay_bus.py`). `code.py`
finds the agent's code, `loaded.py` imports it, `fixture.py` puts up what it saw, in folders of here
(`folder_map.py`). `playback.py` knows the next recorded step; `recorded_llm.py` decides as it was
recorded, `agent_proxy.py` gives recorded results (`results.py`). Each new step is compared
(`difference.py`), and so is the end (`endings.py`).

`live.py` asks a real model again, `fork.py` lets it go on. `sources.py` finds what to replay,
`verdicts.py` says how it went. `single_run.py` runs an agent without any recording, for tests and
evaluations.
"""
