"""Models of the Hugging Face hub, and what every download shows and needs."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from agentd.errors import AgentdError, ConfigError, StorageError
from agentd.whole import write_whole

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all (0: not known), and what is being done."""

POLL_SECONDS = 0.2
HUB_FILES = ["*.json", "model*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
NAME_CHARACTERS_MAX = 96
COMPLETE = ".complete"  # written last into a model pulled from the hub


def is_name(name: str) -> bool:
    """Return whether it is written like a name of the hub, `org/name`.

    By the hub's own rules (huggingface_hub's validate_repo_id): ASCII alone, so that no letter that
    looks like another fetches somebody else's model, and no `--`, which stands for `/` in our
    folders.
    """
    fits = len(name) <= NAME_CHARACTERS_MAX and NAME.fullmatch(name) is not None
    return fits and "--" not in name and ".." not in name


def folder_of(name: str, models: Path) -> Path:
    """Return the folder that a model of the hub has among the others."""
    return models / name.replace("/", "--")


def pull(name: str, models: Path, progress: Progress) -> Path:
    """Download a model, going on where an earlier try ended, and return its folder.

    Raises:
        ConfigError: it does not exist, or the hub cannot be reached.
        StorageError: the disk is too full.
    """
    import huggingface_hub  # 0.5 s: only for models of the hub
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            f"cannot pull {name}: HF_HUB_OFFLINE is set",
            hint="unset it, or give the folder of a model that is on this machine",
        )
    folder = folder_of(name, models)
    try:
        info = huggingface_hub.HfApi().model_info(name, files_metadata=True)
        total = sum(
            file.size or 0
            for file in info.siblings or []
            if any(fnmatch(file.rfilename, pattern) for pattern in HUB_FILES)
        )
        need_disk(models, total - (folder_bytes(folder) if folder.exists() else 0))
        with _polled(folder, total, f"fetching {name}", progress):
            huggingface_hub.snapshot_download(
                name, local_dir=folder, allow_patterns=HUB_FILES, revision=info.sha
            )
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise ConfigError(
            f"the Hugging Face hub does not give {name}: it does not exist, or needs a login",
            hint="check the name; for a gated model run `hf auth login` first",
        ) from error
    except AgentdError:
        raise
    except Exception as error:  # its HTTP library's, which changes from version to version
        raise ConfigError(
            f"cannot reach the Hugging Face hub for {name}: {type(error).__name__}",
            hint="check the network, or use the bundled model smollm2-135m or a local folder",
        ) from error
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{name} has no config.json", hint="choose a model in MLX format")
    write_whole(folder / COMPLETE, json.dumps({"name": name, "revision": info.sha}), mode=None)
    progress(total, total, f"{name} is ready")
    return folder


@contextmanager
def _polled(folder: Path, total: int, label: str, progress: Progress) -> Iterator[None]:
    """Report the folder's growing size from a thread meanwhile."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def report() -> None:
        try:
            while not stop.wait(POLL_SECONDS):
                progress(min(folder_bytes(folder), total), total, label)
        except BaseException as error:  # nobody reads any more what it prints, say
            failed.append(error)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files under a folder that may be changing meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            try:
                total += (Path(parent) / file).lstat().st_size
            except FileNotFoundError:
                continue  # renamed between the listing and the look
    return total


def need_disk(folder: Path, needed: int) -> None:
    """Raise StorageError where fewer bytes than `needed` are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"needs {needed // 1_000_000} MB of disk, {free // 1_000_000} MB are free",
            where=str(folder),
            hint="make room, or move everything with AGENTD_HOME",
        )
