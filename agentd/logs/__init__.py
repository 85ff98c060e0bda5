"""Structured logs: `logger.py` writes lines, `file.py` bounds their files.

`view.py` reads them from the first line on, `newest.py` from the last one back.
"""
