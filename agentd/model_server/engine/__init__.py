"""The engine: many calls decoded together on one model, with their prompt caches.

`queue.py` orders the calls, `thread.py` takes them to `mlx.py`, the engine, `slots.py` says who
gets a slot, and `watchdog.py` sees that it goes on. A step: `decoding.py` takes the rows of
`batch.py` a token further, which `next_tokens.py` and `sampling.py` choose, `prefill.py` reads
prompts in pieces, `scoring.py` what is only scored.
`rows_cache.py` holds what the batch's rows have read, `prompt_cache.py` keeps it for later prompts,
`prompt_cache_file.py` over a restart.

Around it: `weights.py` loads the model, `output_layer.py` spares it work, `memory.py` bounds what
is admitted, `malloc.py` and `blas.py` are set before MLX, `cpu_attention.py` after it; `metrics.py`
and `request_log.py` tell.
"""
