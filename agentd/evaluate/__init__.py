"""Evaluation: an agent on labelled cases, to compare models, masks, and how full the window is.

`cases.py` reads the cases, `evaluate.py` runs them with a real model, `score.py` counts what
was right, `own_server.py` starts a model server where none runs.

Ways to choose a label are compared on labelled texts: `labelled.py` reads them, `choosers.py` asks
a model, `choosing.py` compares, `tally.py` counts.
"""
