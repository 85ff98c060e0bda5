"""What a person is shown, as plain JSON documents: for the commands, the page and `agentd mcp`.

`overview.py` is the whole: the daemon and its agents. Its parts are `agent_triggers.py` (what wakes
an agent), `waits_for.py` (why it does not get on) and `daemon_state.py` (what the supervisor says).
`result_list.py` is what agents came to, `corrections.py` which labels of it a person may correct,
`open_questions.py` what waits for an answer, `question.py` what became of a person's question.
`agent_page.py` is all about one agent, with `permission_words.py`: what it may do. Nothing is
printed here, and the database is only read.
"""
