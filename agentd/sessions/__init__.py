"""Sessions: one run of the loop for one event, durable, resumed after a cut.

`session.py` is the session in memory, `steps.py` its recorded log, `journal.py` writes it,
`attempts.py` counts tries, `breaker.py` stops an agent that fails at everything, `closing.py`
brings sessions to rest, `sessions.py` opens and resumes them, `trouble.py` tells people.
"""
