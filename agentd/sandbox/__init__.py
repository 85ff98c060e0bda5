"""Boxes around processes, kept by the kernel: what no check of ours has to be trusted for.

`policy.py` says what a process may touch. `enter.py` puts the calling process into it for good, on
Linux by `landlock.py` (files, ports, signals), `seccomp.py` (system calls, whose numbers are in
`system_calls.py`) and without any capability. On macOS `seatbelt.py` wraps a command line instead.
TCP comes to it by `gate.py`. `machine_share.py` limits what a program takes of the machine.
`level.py` tells what this system can do of that, and why not more.
"""
