"""One agent's process.

`head.py` is its sandbox. `worker.py` takes events off its lanes, `runner.py` runs a session for
each, `schedule.py` fires what is due, `own_later.py` what the agent set for itself.
`persons_word.py` asks whether a person wrote an answer.
`forks.py` forks this process from one that has imported all of it.
`first_imports.py` keeps an idle worker small: nothing is imported here.
"""
