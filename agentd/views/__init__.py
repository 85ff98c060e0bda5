"""What a person is shown, as plain JSON documents: for the commands, the page and `agentd mcp`.

`overview.py` is the whole: the daemon and its agents. Its parts are `daemon_state.py` (what the
supervisor says), `agent_triggers.py` (what wakes an agent), `waits_for.py` (why it does not get on)
and `machine_use.py` (CPU and memory). `agent_page.py` is all about one agent, with
`permission_words.py`: what it may do.
`result_list.py` is what agents came to, `corrections.py` which labels of it a person may correct,
`open_questions.py` what waits for an answer, `question.py` what came of a question.
`event_line.py` says an event in words. `session_turns.py` is a session turn by turn, `causes.py`
what an event answers and what came of it, `model_use.py` how the model was used, `log_lines.py`
what processes logged.
Nothing is printed here, and the database is only read.
"""
