"""Sessions: one run of the loop for one event, durable, resumed after a cut.

`sessions.py` opens and resumes them. It holds three more: `journal.py` writes what a session does
as it goes, `closing.py` brings it to rest, `archive.py` is for all who only read. `session.py` is a
session in memory, `steps.py` its recorded log, `asked.py` what it waits for from a person,
`returned.py` holds what an agent returns to its word, `attempts.py` counts tries, `breaker.py`
stops an agent that fails at everything, `trouble.py` tells people.
"""
