"""Models on this machine: `store.py` names and finds them, `huggingface.py` fetches one.

`gguf.py` makes an MLX model of the bundled one, `window.py` reads how long a model's window is.
"""
