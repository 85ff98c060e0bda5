"""Structured logs: `logger.py` writes lines, `file.py` bounds their files, `view.py` reads them."""
