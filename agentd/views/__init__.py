"""What a person is shown, as plain JSON documents: for the commands, the page and `agentd mcp`.

`result_list.py` is what agents came to; `corrections.py` which labels of it a person may correct.
`open_questions.py` is what waits for an answer. Nothing is printed here, and the database is only
read.
"""
