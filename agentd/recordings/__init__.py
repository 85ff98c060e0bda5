"""Recordings: a session as a value and as one text file that a person can read.

`recording.py` is the value. `recording_file.py` describes the format and writes it, `reader.py`
reads it, line by line as `lines.py` has them. `git_pack.py` packs the part of a repository that was
looked at. `redact.py` takes the secrets out that `finder.py` finds.
"""
