"""The model server: one process, one model, every agent's requests.

`http/` takes them, `language/` turns them into tokens, `grammar/` says which answers are legal, and
`engine/` decodes. `calls.py` is what they share; nothing is imported here.
"""
