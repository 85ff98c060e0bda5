"""How a dropped file becomes an accepted version of an agent.

`precheck.py` refuses what needs no process, `admit.py` checks and builds, `declared.py` looks at
what a class says of itself, `compile.py` runs BAML's generator, `version.py` reads what was built.
Nothing is imported here: a worker needs `version` alone.
"""
