"""The model server: one process, one model, every agent's requests.

`http/` takes them, `language/` turns them into tokens, `grammar/` says which answers are legal, and
`engine/` decodes. They share `calls.py`, `tool_calls.py`, and what a schema may say
(`schema_rules.py`, `schema_parts.py`); nothing is imported here.
"""
