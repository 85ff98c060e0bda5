"""The model server beside stock mlx_lm.server, or a rival: `python -m tests.bench model`.

Both run at the same time, on the same model folder, and are asked the same prompts in turns. All
goes over HTTP; the only thing a server is asked besides is its /metrics.
"""
