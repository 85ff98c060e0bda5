"""HTTP: what the model server hears and says, in OpenAI's words.

`server.py` is uvicorn, with `connection_limits.py`; `handed_over.py` takes agents' connections, and
`callers.py` tells agents from other programs. `app.py` has the paths. `requests.py` checks what is
asked, by way of `conversation.py` and `body.py`; `known_schemas.py` has the schemas that are named
by their digest. `pieces.py` brings what is said from the engine, `answers.py` sends it, and
`text_answers.py` where that goes on from a text; `logprobs.py` tells how likely it was. `scores.py`
is an endpoint of its own.
"""
