"""Sessions: one run of the loop for one event, durable, resumed after a cut.

`session.py` is the session in memory, `steps.py` its recorded log, `journal.py` writes it,
`attempts.py` counts tries, `sessions.py` opens, resumes and closes.
"""
