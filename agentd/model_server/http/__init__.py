"""HTTP: what the model server hears and says, in OpenAI's words.

`server.py` is uvicorn, with `connection_limits.py`; `app.py` has the paths. `requests.py` checks
what is asked, by way of `conversation.py` and `body.py`; `answers.py` sends what is said, and
`logprobs.py` how likely it was. `scores.py` is an endpoint of its own.
"""
