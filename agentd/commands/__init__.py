"""One module per command, or per noun. Each is imported only when its command runs.

What several of them need: `parser.py` reads the command line, `row_filter.py` says which rows are
listed, `output.py` prints, `fitted_table.py` tables that fit the terminal, `home.py` opens the bus
of this home, `daemon_commands.py` tells the daemon something and waits for it, `seed.py` fills a
new home. `status_text.py` and `agent_text.py` are parts of `status.py`, `agent_file.py` of
`enable.py` and `remove.py`.
`checked.py`, `advice.py`, `alike_labels.py`, `mcp_checks.py` and `subscriptions.py` are parts of
`check.py`, `new_task.py` of `new.py`.
"""
