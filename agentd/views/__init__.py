"""What a person is shown, as plain JSON documents: for the commands, the page and `agentd mcp`.

`event_line.py` says an event in words. Nothing is printed here, and the database is only read.
"""
