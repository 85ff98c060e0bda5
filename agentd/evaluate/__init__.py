"""Evaluation: an agent on labelled cases, to compare models, masks, and how full the window is.

`cases.py` reads the cases, `evaluate.py` runs them on a stage with a real model, `score.py` counts
what was right, `server.py` starts a model server where none runs.
"""
