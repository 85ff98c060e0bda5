"""JSON Schemas: any of them is read, and written plainly and bounded, or refused by its place.

`bounds.py` holds the keywords, the sizes that each side sets and the error. `document.py` finds a
schema's parts and what references mean; `reading.py` makes shapes (`shapes.py`) of them, `types.py`
of the keywords of types. `fitting.py` says whether a value fits, `proof.py` whether two schemas
have nothing in common. `writing.py` closes and bounds: `numbers.py`, `patterns.py`, `finite.py`
(values that are named) and `properties.py` (objects). `canonical.py` writes a value in one form,
for digests, and `schema_digest.py` makes the one by which a schema is named. Nothing but the
standard library is imported: workers read it too.
"""
