"""The agent made of configuration alone. `agents/task.py` names it, its files are these.

`task_params.py` is what its file says, `first_steps.py` the steps that it takes before the model is
asked, `found.py` what these gave: rows, facts and candidates. `asked_columns.py` has the models of
what the model decides and of what is published. `written_result.py` writes title and Markdown, and
`configured.py` puts all of it together. `label_values.py` says which of it a
person may correct, and `row_examples.py` are rows with what would have been right.
"""
