"""The page: a process of its own that shows in a browser what agents do, and hands on clicks.

`__main__.py` starts it in its sandbox, `page_server.py` serves until a stop. `access.py` says who
may look: a link that is used once, a cookie, one host, one origin, and by `other_users.py` no other
user. `routes.py` has every address, `rendering.py` makes HTML of templates. `page_reader.py` reads
the database and asks the supervisor, `acting.py` turns a form into a command, `live_stream.py`
tells open pages what is new, and `page_parts.py` holds these for each page.

The pages are `today.py`, `agent_pages.py`, `session_pages.py`, `model_page.py`, `log_page.py` and
`ask_page.py`. What they show comes from `agentd.views`; `shown_values.py` writes times and amounts,
`markdown_text.py` texts, `bar_chart.py` charts. Templates, the style sheet and the script lie
beside.
"""
