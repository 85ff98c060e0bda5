"""Results reach a person, quietly: the process that sends what is new by the ways of [deliver].

It has no model, no network and no key. `deliver.py` has its threads: a `courier.py` for each way,
and `replies.py`, which hears what a person answers. `news.py` says what is to be told, `silence.py`
when nothing is sent, `messages.py` what a message looks like, `position.py` how far each way is.
`ways.py` is what ways have in common: `ntfy.py`, `telegram.py`, `notification.py`; `day_file.py`
writes files. `confined.py` is its sandbox.
"""
