"""How a dropped file becomes an accepted version of an agent.

`precheck.py` refuses what needs no process, `admit.py` checks and builds. `source_files.py` and
`mcp_sources.py` read what a version is made of, `declared.py` looks at what a class says of itself,
`scheduled.py` at what a schedule's run lacks, `whole_union.py` at what our model server refuses,
`compile.py` runs BAML's generator, `version.py` reads what was built, `old_versions.py` removes it.
Nothing is imported here: a worker needs `version` alone.
"""
