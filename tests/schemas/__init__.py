"""Schemas to try the masks with: `drawn.py` for hypothesis, `corpus.py` in the manner of people.

`uv run python -m tests.schemas --count N --seed S` prints what of the corpus is accepted and what
is refused, and why. It answers the accepted ones at random, cuts answers anywhere, and counts what
is illegal under the schema as it was given. `trial.py` is one schema's trial.
"""
