"""The database as a whole: kept bounded, watched, copied, checked and repaired.

`own_folder.py` moves an older version's into a folder, `database_files.py` tells whether its files
are those that the daemon has open. `retention.py` prunes by way of `rows.py`, `health.py` looks for
trouble, `copies.py` writes and swaps whole files, `salvage.py` reads what is left of a damaged one,
and `repair.py` puts that in its place. `storage_retry.py` waits for a disk that is full or locked.
"""
