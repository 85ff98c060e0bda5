"""JSON Schemas: one walker says which of them can be honoured, and bounds what they leave open.

`bounds.py` holds the keywords, the sizes that each side sets and the error; `walk.py` checks and
bounds a schema; `together.py` looks at several schemas for one value. Nothing but the standard
library is imported: workers read it too.
"""
