"""One agent's process.

`worker.py` takes events off its lanes, `runner.py` runs a session for each, `schedule.py` fires
what is due, `storage_retry.py` waits for a disk that is full or locked. `first_imports.py` keeps an
idle worker small: nothing is imported here.
"""
