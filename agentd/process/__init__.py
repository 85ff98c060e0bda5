"""One process and its parent: started, watched, stopped, taken over, told of.

`child.py` starts a child that cannot outlive its parent, with `guardian.py` beside it; `heart.py`
is its pulse, `lock.py` proves that it lives, `takeover.py` ends the copy before it, `stop.py`
interrupts it, `crash.py` tells the next one how it ended, `started.py` is its process, if that was
spawned. Others are forked: `fork_orders.py` orders them from a `fork_server.py`, by the rules of
`fork_rules.py`, and `process_title.py` gives each its command line.
`failure.py` says an exception in one line, `until.py` looks until something is so.
`confined_process.py` is the frame of helpers that are kept running, in their sandbox.
`supervisor_link.py` lets a child ask its supervisor, over a `channel.py`, which carries documents
and descriptors between any two of our processes. `environment.py` is what a child sees of ours,
`usage.py` what any of them takes of the machine (`footprint.py` on macOS),
`deferred.py` keeps small what runs many times,
`jobs.py` is the parent's work in the background, `leave.py` lets a signal end a command through its
clean-up.
"""
