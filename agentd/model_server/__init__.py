"""The model server: one process, one model, every agent's requests.

`http/` takes them, `language/` turns them into tokens, `grammar/` says which answers are legal, and
`engine/` decodes; `serve.py` puts them together. They share `calls.py`, `tool_calls.py` and
`protocols.py`. `token_file.py` is the token as its file has it. Nothing is imported here.
"""
