"""The shared tools: typed decisions with handlers, bound to one agent's permissions.

`declared_tools.py` says which there are, `toolbox.py` is one agent's, `remote.py` calls those that
another process carries out. The handlers stand in `files.py`, `http.py`, `shell.py` and
`person.py`; `base.py` says what one is given. A handler imports neither Pydantic nor the
configuration: hands and fetcher are small processes. `outside_tools.py` are tools of MCP servers.

`place.py` resolves a path that a tool was given. `closed.py` has the places that no permission
opens: by `surroundings.py`, by the names in `obeyed.py`, by what `git_settings.py` finds named, and
by `links.py`, where links lead. `public.py` tells which addresses are public.

`git.py` looks at repositories for agents: `git_looks.py` does it, here or in the agent's hands, and
`git_work.py` at what is in no commit yet, by way of `git_command.py`, after `repository.py` found
what git would read there.
"""
