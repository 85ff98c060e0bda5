"""The supervisor: desired agents against running processes, and the model server.

`main.py` takes the lock, `supervisor.py` keeps the order of start and stop and reacts to signals.
`agents.py` holds a slot for each file, `slot.py` what becomes of it: `checks.py` has it checked,
`children.py` runs its process (`argv.py`, and `child_output.py` what it prints), `one_job.py` one
that ends by itself, `at_need.py` one that is wanted at times, `restart.py` has the rules.
`worker_forks.py` starts workers, by a process that forks them.
`requests.py` answers what workers ask for. That may be a process of `helpers.py`: hands, which
`hands_host.py` starts, the fetcher of `fetcher_host.py`, or the MCP host of `mcp_host.py`; what
these hosts work with is in `host_parts.py`. `mcp_discovery.py` has an MCP server asked which tools
it has, for checks, without any of these. `deliver_host.py` runs what sends results,
`watcher_host.py` what watches folders, `ui_host.py` the page's process, which may touch what
`ui_policy.py` says and is entered by `one_time_link.py`. `loopback.py` takes ports;
`process_use.py` measures all processes for who asks for that.
`model.py` is the model server, `records.py` the bus, `control.py` people's commands, `settings.py`
agentd.toml. `file_changes.py` notices changed files; `home_files.py`, `sockets.py` and
`housekeeping.py` watch over the home; `external_model.py`, `secret_answers.py` and `bytecode.py` do
for workers what their sandbox keeps from them; `client.py` asks a running supervisor. Nothing is
imported here: a command that asks must answer at once.
"""
