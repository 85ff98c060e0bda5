"""The database as a whole: kept bounded, watched, copied, checked and repaired.

`retention.py` prunes by way of `rows.py`, `health.py` looks for trouble from outside and inside,
`copies.py` writes and swaps whole files, `salvage.py` reads what is left of a damaged one,
`repair.py` puts that in its place.
"""
