"""A turn beside other people's libraries: `python -m tests.bench peers`.

`beside.py` measures, `chat_server.py` is the server that all sides ask, `run_*.py` are the sides,
and `rounds.py` is what these run in: environments of their own. So nothing is imported here.
"""
