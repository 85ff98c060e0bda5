"""Tools of MCP servers (Model Context Protocol), for agents.

`definitions.py` says what such a tool is to an agent; `pins.py` keeps what of it was accepted.
"""
