"""The shared tools: typed decisions with handlers, bound to one agent's permissions.

`declared_tools.py` says which there are, `toolbox.py` is one agent's, `remote.py` calls those that
another process carries out, which finds them in `handlers.py`, as it does the parts of tools that
the worker composes (`ToolCall.inner`). `base.py` says what a handler is given, `session_view.py`
what of the session that calls. Neither imports Pydantic or the configuration: hands and fetcher are
small processes. The handlers stand in `files.py`, `move.py`, `http.py`, `page.py`, `feed.py`,
`calendar.py`, `pdf.py`, `query.py`, `shell.py`, `recall.py`, `later_tool.py` and `person.py`.
`outside_tools.py` are tools of MCP servers; `post.py` is no tool, but what the process that sends
results has of the fetcher.

`log_file.py` reads a log on from where it was left, and `log_errors.py` finds the errors in it.
Notes are read by `note_files.py`: `open_tasks.py` finds what is open in them, `find_notes.py` what
goes with a question.

`mail.py` puts ReadMail together: `imap.py` fetches what a server has, `mailboxes.py` reads what
lies here, `mail_message.py` reads one mail. `macos_apps.py` tells apps of a Mac what to do,
`calendar_app.py` asks one.

`place.py` resolves a path that a tool was given. `closed.py` has the places that no permission
opens: by `surroundings.py`, by the names in `obeyed.py`, by what `git_settings.py` finds named, and
by `links.py`, where links lead. `public.py` tells which addresses are public.

`charsets.py` has the encodings of the web, `time_limit.py` bounds others' parsers.

`git.py` looks at repositories for agents: `git_looks.py` does it, here or in the agent's hands, and
`git_work.py` at what is in no commit yet, by way of `git_command.py`, after `repository.py` found
what git would read there.
"""
