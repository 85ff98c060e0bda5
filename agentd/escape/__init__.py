"""The proof that a sandbox holds: each known way out is tried, with it and without.

`attempt.py` says what an attempt is. They stand in `on_files.py`, `on_programs.py`,
`on_processes.py`, `on_network.py` and `on_kernel.py`. `outside.py` puts up what they are after,
`inside.py` is the process that makes them, `escape.py` starts it and compares.
"""
