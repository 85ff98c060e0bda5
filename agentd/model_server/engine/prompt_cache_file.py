"""Prompt caches on disk, so that a restart does not prefill fifty agents' fixed parts again.

One safetensors file: a node's tokens as `N.t`, its key-value layers as `N.L.k` and `N.L.v`, its
checkpoints' arrays as `N.L.s.I`; the tree and what is no array stands in the metadata. A file of
another model, another mlx_lm or another format is not read. It holds what agents read, so it is
private to this user, like the database.
"""

import contextlib
import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from agentd.model_server.engine.prompt_cache import Node, PromptCaches, Slices
from agentd.whole import put_in_place

FORMAT = 1
# Reading beats prefilling nearly everywhere; a slow disk beside a fast GPU is the exception.
READ_BYTES_PER_S = 200_000_000


def identity(folder: Path) -> str:
    """Return what a model folder's caches are valid for: its files and the library's version."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    text = json.dumps([FORMAT, version("mlx-lm"), version("mlx"), str(folder), facts])
    return hashlib.sha256(text.encode()).hexdigest()


def save(caches: PromptCaches, path: Path, identity: str, limit_bytes: int) -> int:
    """Write the nodes that were used last, whole paths only; return their bytes.

    Raises:
        OSError: it cannot be written; an earlier file is left as it was.
    """
    arrays: dict[str, mx.array] = {}
    listed: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}
    total = 0
    kept = _last_used(caches, limit_bytes)
    for node in caches.nodes():  # parents first
        if id(node) not in kept:
            continue
        number = numbers[id(node)] = len(listed)
        total += node.bytes
        arrays[f"{number}.t"] = mx.array(node.tokens)
        for layer, pair in enumerate(node.slices):
            if pair is not None:
                arrays[f"{number}.{layer}.k"], arrays[f"{number}.{layer}.v"] = pair
        states = None
        if node.states is not None:
            states = [
                None if state is None else _packed(state.state, f"{number}.{layer}.s", arrays)
                for layer, state in enumerate(node.states)
            ]
        listed.append({"parent": numbers.get(id(node.parent)), "states": states})
    # The ending is safetensors' own: mlx adds it to a name that lacks it.
    temporary = path.with_name(f".{path.stem}.new.safetensors")
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        metadata = {"identity": identity, "bytes": str(total), "nodes": json.dumps(listed)}
        mx.save_safetensors(str(temporary), arrays, metadata)
        put_in_place(temporary, path)
        caches.changed = False
    except RuntimeError as error:  # mlx's way to say that a disk is full
        raise OSError(f"cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return total


def load(caches: PromptCaches, path: Path, identity: str, *, prefill_rate: float) -> int:
    """Graft what was saved, if reading it beats prefilling at `prefill_rate` tokens/s.

    Returns the tokens. A file that cannot be used is removed: it would not get any better. Arrays
    are read from the file when they are first used.
    """
    if not path.is_file():
        return 0
    found: list[Node] = []
    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
        arrays, metadata = loaded
        if metadata["identity"] != identity:
            raise ValueError("of another model")
        listed = json.loads(metadata["nodes"])
        tokens = [np.array(arrays[f"{number}.t"], np.int32) for number in range(len(listed))]
        size = int(metadata["bytes"])
        faster = size / READ_BYTES_PER_S < sum(map(len, tokens)) / prefill_rate
        if not faster or size > caches.limit_bytes:
            raise ValueError("prefilling is faster, or there is no room")
        for number, node in enumerate(listed):
            layers = caches.empty_layers()
            slices: Slices = []
            states: list[Any] = []
            for layer, empty in enumerate(layers):
                keys = arrays.get(f"{number}.{layer}.k")
                slices.append(None if keys is None else (keys, arrays[f"{number}.{layer}.v"]))
                packed = None if node["states"] is None else node["states"][layer]
                if packed is not None:
                    empty.state = _unpacked(packed, arrays)
                states.append(None if packed is None else empty)
            parent = None if node["parent"] is None else found[node["parent"]]
            kept = states if node["states"] is not None else None
            found.append(caches.graft(tokens[number], slices, parent, kept))
    except Exception:  # whatever is wrong with it: it is only a cache
        caches.clear()
        with contextlib.suppress(OSError):
            path.unlink()
        return 0
    caches.changed = False
    return caches.tokens


def _last_used(caches: PromptCaches, limit_bytes: int) -> set[int]:
    """Return the ids of the nodes to save: used last, with all that stands before them."""
    kept: set[int] = set()
    total = 0
    for node in sorted(caches.nodes(), key=lambda node: -node.used):
        path: list[Node] = []
        at: Node | None = node
        while at is not None and at.parent is not None and id(at) not in kept:
            path.append(at)
            at = at.parent
        size = sum(each.bytes for each in path)
        if total + size > limit_bytes:
            continue
        total += size
        kept.update(map(id, path))
    return kept


def _packed(value: Any, name: str, arrays: dict[str, mx.array]) -> Any:
    """Return a cache's state as JSON, its arrays put aside under names that begin with `name`."""
    if isinstance(value, mx.array):
        key = f"{name}.{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, list | tuple):
        return [_packed(item, name, arrays) for item in value]
    return value


def _unpacked(value: Any, arrays: dict[str, mx.array]) -> Any:
    if isinstance(value, dict):
        return arrays[value["array"]]
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    return value
