"""Tools of MCP servers (Model Context Protocol), for agents.

`definitions.py` says what such a tool is to an agent; `pins.py` keeps what of it was accepted, and
has a server asked by `discovery.py`, a process in the host's sandbox. `agentd.hands` says how a
server's program is started, `launch.py` becomes it.

One process (`__main__.py`) holds the clients of all servers, in the sandbox of `host_policy.py`:
`host.py` carries out agents' calls, `live_server.py` keeps one server, `peer.py` talks to it, over
`pipes.py` or `over_http.py`. The library `mcp` is imported by these alone, and by `agentd mcp`: it
takes 60 MB and a second.
"""
