"""An agent's hands: the process that touches the world for it, in a sandbox.

`orders.py` is what it gets to know, once; `permitted.py` makes that of an agent's permissions, in
the supervisor. `hands.py` carries out calls, one at a time. The worker, which decides, calls by
`agentd.tools.remote`.

`mcp_program.py` makes the same of an MCP server's permissions, and says how its program is started.
"""
