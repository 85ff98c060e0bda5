"""A person's yes: which decisions wait for one, and who gave it.

`approval.py` says of each decision of an agent whether it is carried out, asked about or denied,
and why; `payloads.py` which events hold no free text. `signature.py` tells what a person wrote from
what somebody put into the database. `unanswered.py` lists what waits, and answers it; `kept.py`
holds what a person saw of it, and which yes was used.
"""
