"""Convert the bundled SmolLM2-135M-Instruct GGUF into a folder that mlx_lm loads.

The weights stay quantised as they are (Q4_1, and Q8_0 for the embedding, are MLX's own affine
layout with groups of 32), so the folder takes 100 MB; the engine widens them where that is faster.
Nothing here imports mlx_lm.
"""

import json
from pathlib import Path
from typing import Any

from agentd.errors import ConfigError

TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # llama.cpp's token type for <|im_start|> and its like
GROUP = 32  # weights per scale, in Q4_1 and Q8_0 alike


def convert(gguf: Path, folder: Path) -> None:
    """Write config.json, tokenizer.json, the chat template and model.safetensors into `folder`.

    Takes about a second and 250 MB of memory.

    Raises:
        ConfigError: the file is not the llama GGUF that this expects.
    """
    import mlx.core as mx  # 100 ms: only where a model is converted

    loaded: Any = mx.load(str(gguf), return_metadata=True)
    weights, metadata = loaded
    if metadata.get("general.architecture") != "llama" or "tokenizer.ggml.merges" not in metadata:
        raise ConfigError(
            "is not the SmolLM2 file that agentd knows how to convert", where=str(gguf)
        )
    _write_tokenizer(metadata, folder)
    # Norms come as float32; next to float16 scales they would widen every product on a GPU.
    renamed = {
        _renamed(name): value.astype(mx.float16) if value.dtype == mx.float32 else value
        for name, value in weights.items()
    }
    config = {**_config(metadata), "quantization": _quantization(renamed)}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    mx.save_safetensors(str(folder / "model.safetensors"), renamed, {"format": "mlx"})


def _renamed(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    *prefix, tensor, kind = name.split(".")
    layer = f"model.layers.{prefix[1]}." if prefix else ""
    return f"{layer}{TENSORS[tensor]}.{kind}"


def _config(metadata: dict[str, Any]) -> dict[str, Any]:
    def number(key: str) -> int:
        return int(metadata[f"llama.{key}"].item())

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": number("embedding_length"),
        "num_hidden_layers": number("block_count"),
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "vocab_size": number("vocab_size"),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": float(f"{metadata['llama.attention.layer_norm_rms_epsilon'].item():.6g}"),
        "rope_theta": float(metadata["llama.rope.freq_base"].item()),
        # GGUF permutes q and k for pairwise rotation; MLX calls that traditional.
        "rope_traditional": True,
        "tie_word_embeddings": True,
        "bos_token_id": int(metadata["tokenizer.ggml.bos_token_id"].item()),
        "eos_token_id": int(metadata["tokenizer.ggml.eos_token_id"].item()),
    }


def _quantization(weights: dict[str, Any]) -> dict[str, Any]:
    """Return mlx_lm's description: 4 bits, except for the embedding, which is kept in 8."""
    found: dict[str, Any] = {"group_size": GROUP, "bits": 4}
    for name, scales in weights.items():
        layer = name.removesuffix(".scales")
        if layer != name:
            bits = weights[f"{layer}.weight"].shape[1] // scales.shape[1] * 32 // GROUP
            if bits != found["bits"]:
                found[layer] = {"group_size": GROUP, "bits": bits}
    return found


def _write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"].tolist()
    special = [
        (number, tokens[number]) for number, kind in enumerate(kinds) if kind == CONTROL_TOKEN
    ]
    write_byte_level_bpe(
        folder,
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
        special=special,
        bos=tokens[int(metadata["tokenizer.ggml.bos_token_id"].item())],
        eos=tokens[int(metadata["tokenizer.ggml.eos_token_id"].item())],
        chat_template=metadata["tokenizer.chat_template"],
    )


def write_byte_level_bpe(
    folder: Path,
    *,
    vocab: dict[str, int],
    merges: list[list[str]],
    special: list[tuple[int, str]],
    bos: str,
    eos: str,
    chat_template: str,
) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    The pre-tokeniser is llama.cpp's "smollm": digits one by one, then GPT-2's byte-level split.
    """
    added = [
        {
            "id": number,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, content in special
    ]
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", **byte_level},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **byte_level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), "utf-8")
    (folder / "chat_template.jinja").write_text(chat_template, "utf-8")
