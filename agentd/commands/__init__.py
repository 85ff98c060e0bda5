"""One module per command, or per noun. Each is imported only when its command runs.

What several of them need: `parser.py` reads the command line, `output.py` prints, `home.py` opens
the bus of this home, `seed.py` fills a new one, `fitted_table.py` prints tables that
fit the terminal. `status_text.py` and `agent_text.py` are parts of `status.py`.
`checked.py`, `advice.py`, `alike_labels.py`, `mcp_checks.py` and `subscriptions.py` are parts of
`check.py`, `new_task.py` of `new.py`.
"""
