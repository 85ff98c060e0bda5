"""How a dropped file becomes an accepted version of an agent.

`first_look.py` refuses what needs no closer look, `admit.py` checks and builds, `declared.py` looks at
what an agent's class says of itself, `compile.py` runs BAML's generator, `version.py` reads what
was built, `prune.py` removes what is old.
Nothing is imported here: a worker needs `version` alone.
"""
