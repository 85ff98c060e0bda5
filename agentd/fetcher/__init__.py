"""The fetcher: the one process that speaks to the network for agents' tools and programs.

`fetcher.py` is its loop. `agent_calls.py` carries out one agent's calls, `proxy.py` is what one
agent's programs go by, of which `proxy_head.py` reads the requests and `pump.py` passes bytes on;
`proxy_place.py` says where they find it.
`resolver.py` says what it may touch itself. Who asks is the descriptor that the supervisor handed
over, with the list of hosts that goes with it.
"""
