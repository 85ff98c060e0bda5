"""Tiny random models of the kinds whose caches cannot be cut back, with the tiny tokenizer."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten

from agentd.testing.tiny_model import make_tiny

WINDOW = 2048
_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": WINDOW,
    "eos_token_id": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    # Sliding windows of 24 tokens in every layer but the second and fourth.
    "gemma3_text": {**_COMMON, "sliding_window": 24, "sliding_window_pattern": 2},
    # Short convolutions, whose state is the last inputs.
    "lfm2": {
        **_COMMON,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 64,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "full_attn_idxs": [1, 3],
    },
    # Gated delta nets, which are recurrent.
    "qwen3_5": {
        **_COMMON,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "full_attention_interval": 2,
        "tie_word_embeddings": True,
    },
}
KINDS = ["llama", *CONFIGS]  # all that the engine may meet

# With as many rows as key-value heads, mlx_lm's Gemma 2 is wrong in a batch and says nothing.
WRONG_TOGETHER = {
    "gemma2": {**_COMMON, "num_attention_heads": 8, "num_key_value_heads": 4, "rms_norm_eps": 1e-6}
}


def of_kind(kind: str, factory: pytest.TempPathFactory, llama: Path) -> Path:
    """Return a model's folder: `llama`, which all tests share, or a new one of another kind."""
    return llama if kind == "llama" else make(kind, factory.mktemp(kind))


def make(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a model folder of this kind; return it."""
    make_tiny(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    known = {**CONFIGS, **WRONG_TOGETHER}[kind]
    config = {"model_type": kind, **known, "vocab_size": vocabulary}
    kind_of_model, kind_of_args = mlx_lm.utils._get_classes(config)
    mx.random.seed(seed)
    model = kind_of_model(kind_of_args.from_dict(config))
    # Ten times the usual spread: with it the next token depends on what came long before.
    weights = {
        name: value * (10 if value.ndim > 1 else 1)
        for name, value in tree_flatten(model.parameters())
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder
