"""New files in the folders that agents watch, as events: one process for all agents.

`watcher.py` is its loop. `look.py` finds the files that are there, `contents.py` tells what is in
them, `notices.py` is woken when something changed, `watch_policy.py` is the sandbox, and
`given.py` tells agents of files that a person names.
"""
