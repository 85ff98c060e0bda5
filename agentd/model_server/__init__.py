"""The model server: one process, one model, every agent's requests. See app.py and runner.py."""
