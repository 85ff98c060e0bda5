"""What a person is shown, as plain JSON documents: for the commands, the page and `agentd mcp`.

`overview.py` is the whole: the daemon and its agents. Its parts are `agent_triggers.py` (what wakes
an agent), `waits_for.py` (why it does not get on) and `daemon_state.py` (what the supervisor says).
`event_line.py` says an event in words. `session_turns.py` is a session turn by turn, `causes.py`
what an event answers and what came of it, `model_use.py` how the model was used, `log_lines.py`
what processes logged. Nothing is printed here, and the database is only read.
"""
