"""Model folders that both servers load alike: a tiny one with random weights, and SmolLM2 widened.

`python -m tests.bench.model.folders SOURCE TARGET` writes a float32 copy of a model.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs

from agentd.models import store
from agentd.testing.tiny_model import make_tiny
from tests.bench.home import ROOT

WINDOW = 16_384  # tokens
WIDTH = 256  # a step costs 3 to 5 ms on a CPU: not nothing
CONVERT_S = 120.0
VISIBLE = range(ord("!"), ord("~") + 1)


def tiny(folder: Path) -> Path:
    """Write a wider random model with a large window, whose answers are visible and never end.

    Random logits would end an answer anywhere, and be half characters otherwise. The embedding,
    which is the output layer as well, is made zero for all but printable characters, and the
    largest of a hundred random logits is above zero: every token is one printable character.
    """
    from safetensors.numpy import load_file, save_file

    make_tiny(folder, window=WINDOW, width=WIDTH)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(folder / "model.safetensors")
    for token, number in vocabulary.items():
        if len(token) != 1 or ord(token) not in VISIBLE:
            weights["model.embed_tokens.weight"][number] = 0
    save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    return folder


def smollm2(folder: Path) -> Path:
    """Write SmolLM2-135M in float32: 540 MB, which both servers and the bare loop read alike."""
    default = platformdirs.user_cache_dir("agentd-tests", appauthor=False)
    source = store.pull("smollm2-135m", Path(os.environ.get("AGENTD_TEST_CACHE", default)))
    command = [sys.executable, "-m", "tests.bench.model.folders", str(source), str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=CONVERT_S)
    return folder


def _widen(source: Path, target: Path) -> None:
    import mlx.core as mx
    import mlx_lm.utils

    model, config = mlx_lm.utils.load_model(source)
    model = mlx_lm.utils.dequantize_model(model)
    model.set_dtype(mx.float32)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    mlx_lm.utils.save_model(target, model)
    mlx_lm.utils.save_config(config, target / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, target)


if __name__ == "__main__":
    _widen(Path(sys.argv[1]), Path(sys.argv[2]))
