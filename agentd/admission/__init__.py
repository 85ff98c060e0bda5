"""How a dropped file becomes an accepted version of an agent.

`admit.py` checks and builds, `compile.py` runs BAML's generator, `version.py` reads what was built.
Nothing is imported here: a worker needs `version` alone.
"""
