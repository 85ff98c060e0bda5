"""Structured logs: `logger.py` writes lines, `file.py` bounds their files, `view.py` reads them,
`last_lines.py` the last ones alone."""
