"""The model server: one process, one model, every agent's requests.

`http/` takes them, `language/` turns them into tokens, `grammar/` says which answers are legal, and
`engine/` decodes. They share `calls.py` and `tool_calls.py`; nothing is imported here.
"""
