"""Churn against a real model server, and whether it stays flat: `python -m tests.bench.soak`."""
