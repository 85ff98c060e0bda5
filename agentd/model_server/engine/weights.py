"""Load a model folder with mlx_lm, in the form that this machine computes fastest.

On a GPU the weights stay as they are. On the CPU measured with SmolLM2-135M (tokens/s, 2 cores):

                            float32           4-bit, float32 activations
                            prefill  decode   prefill  decode
    OpenBLAS, 2 threads     230-270  10-14    8        7
    OpenBLAS, 1 thread      190      9        8        7
    reference BLAS          7        6        8        7

so weights are widened to float32 where there is a fast BLAS and memory for them, else they stay
quantised. float16 and bfloat16 are slower than both on a CPU, so activations are always float32.
"""

import importlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
from mlx import nn
from mlx.utils import tree_flatten

from agentd.errors import ConfigError
from agentd.model_server.engine.memory import physical_bytes

MEMORY_SHARE = 0.4  # of the machine's memory that widened weights may take


def load_weights(folder: Path, *, fast_blas: bool) -> nn.Module:
    """Return the model, its weights in memory.

    Raises:
        ConfigError: files are missing or damaged, or mlx_lm does not know this architecture.
    """
    forbid_wiring()
    try:
        model, _config = mlx_lm.utils.load_model(folder)
    except Exception as error:  # what a config can be wrong about is every model's own
        raise ConfigError(
            f"the model cannot be loaded: {error}",
            where=str(folder),
            hint="pull it again, or choose a model in MLX format",
        ) from error
    if mx.default_device() == mx.cpu:
        _widen(model, fast_blas)
    model.eval()
    return model


def forbid_wiring() -> None:
    """Keep mlx_lm from calling `mx.set_wired_limit`.

    Kernel panics within minutes of batching with eviction: ml-explore/mlx#3186. BatchGenerator
    and `wired_limit` call it through this name where a device reports a working-set size; None
    makes both leave it alone.
    """
    # Not `import mlx_lm.generate`: the package has a function of that name, which hides the module.
    for module in ("mlx_lm.generate", "mlx_lm.utils"):
        vars(importlib.import_module(module))["maybe_set_recommended_wired_limit"] = lambda: None


def _widen(model: nn.Module, fast_blas: bool) -> None:
    if fast_blas and _float32_bytes(model) < MEMORY_SHARE * physical_bytes():
        _dequantize(model)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    mx.clear_cache()


def _float32_bytes(model: nn.Module) -> int:
    parameters = tree_flatten(model.parameters())
    # A quantised weight packs 32 bits into a word; 4 bits is the usual width.
    return sum(
        value.size * (8 * 4 if value.dtype == mx.uint32 else 4) for _name, value in parameters
    )


def _dequantize(model: nn.Module) -> None:
    plain: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            continue
        biases = module.get("biases")
        weight = mx.dequantize(
            module.weight,
            module.scales.astype(mx.float32),
            None if biases is None else biases.astype(mx.float32),
            module.group_size,
            module.bits,
            module.mode,
        )
        mx.eval(weight)  # one at a time: the packed ones are dropped as we go
        columns = weight.shape[1]
        # Built with tiny shapes and filled: the constructors would draw random weights first.
        replacement: Any
        if isinstance(module, nn.QuantizedEmbedding):
            replacement = nn.Embedding(1, columns)
        else:
            replacement = nn.Linear(1, 1, bias="bias" in module)
            if "bias" in module:
                replacement.bias = module.bias
        replacement.weight = weight
        plain.append((name, replacement))
    model.update_modules(mlx_lm.utils.tree_unflatten(plain))
