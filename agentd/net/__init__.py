"""The one HTTP client: `wait.py` bounds it, `connection.py` connects, `exchange.py` asks.

`kept_connection.py` asks again by the same connection.

It knows no agent and no model. Who may be reached, what is retried and what an answer means is for
those who use it: `llm/wire.py` and `tools/http.py`.
"""
