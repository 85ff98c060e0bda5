"""Models on disk: names, pulling without a network, damage, two pulls at a time."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ConfigError, StorageError, UsageError
from agentd.model_server.engine import blas
from agentd.model_server.language.language import ModelLanguage
from agentd.models import huggingface, store

NAME = "smollm2-135m"


def fake_client(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package client of our own in uv's place."""
    client = folder / "client"
    client.write_text(f"#!{sys.executable}\nimport os, sys\nfrom pathlib import Path\n{script}")
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("UV", str(client))


def tiny_bundle(monkeypatch: pytest.MonkeyPatch, content: bytes = b"weights") -> None:
    """Shrink the bundled model to a few bytes with a converter of our own."""
    import hashlib

    bundled = store.Bundled(
        requirement="llm-nothing==1",
        module="llm_nothing",
        file="model.gguf",
        file_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(store.BUNDLED, NAME, bundled)

    def convert(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text(source.read_text())

    monkeypatch.setattr("agentd.models.gguf.convert", convert)


INSTALL = """
target = Path(sys.argv[sys.argv.index("--target") + 1]) / "llm_nothing"
assert "--no-deps" in sys.argv and sys.argv[-1] == "llm-nothing==1"
target.mkdir()
(target / "model.gguf").write_bytes(b"weights")
"""


def test_pull_fetches_verifies_converts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull leaves the converted model only; the next one finds it and fetches nothing."""
    home = tmp_path / "models"
    tiny_bundle(monkeypatch)
    fake_client(tmp_path, INSTALL, monkeypatch)
    seen: list[tuple[int, int, str]] = []
    folder = store.pull(NAME, home, lambda *step: seen.append(step))
    assert folder == home / NAME == store.resolve(NAME, home)
    assert (folder / "config.json").read_text() == "weights"
    assert [path.name for path in home.iterdir() if path.is_dir()] == [NAME]
    assert any("fetching" in label for _done, _total, label in seen)
    assert any("converting" in label for _done, _total, label in seen)
    fake_client(tmp_path, "sys.exit('must not be called')", monkeypatch)
    assert store.pull(NAME, home) == folder


def test_two_pulls_at_a_time_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first and takes its result."""
    tiny_bundle(monkeypatch)
    log = tmp_path / "log"
    fake_client(tmp_path, f"open({str(log)!r}, 'a').write('x')\n{INSTALL}", monkeypatch)
    threads = [
        threading.Thread(target=store.pull, args=(NAME, tmp_path / "models")) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert log.read_text() == "x"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("sys.exit('error: no route to the index')", "no route to the index"),
        ("pass", "could not fetch"),
        (INSTALL.replace(b"weights".decode(), "altered"), "SHA-256"),
        ("os.kill(os.getpid(), 9)", "was stopped"),
    ],
)
def test_a_failed_pull_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    """No network, a wrong file, a killed client: one clear error, no half model."""
    tiny_bundle(monkeypatch)
    fake_client(tmp_path, script, monkeypatch)
    home = tmp_path / "models"
    with pytest.raises(ConfigError) as error:
        store.pull(NAME, home)
    assert says in str(error.value)
    assert error.value.hint
    assert not [path for path in home.iterdir() if path.is_dir()]


def test_leftovers_of_a_killed_pull_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull killed in the middle costs disk only until the next pull."""
    tiny_bundle(monkeypatch)
    fake_client(tmp_path, INSTALL, monkeypatch)
    leftover = tmp_path / "models" / ".pull-dead"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"x")
    store.pull(NAME, tmp_path / "models")
    assert not leftover.exists()


def test_too_little_disk_is_found_before_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is an error at the start, with the sizes."""
    usage: Any = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    fake_client(tmp_path, "sys.exit('must not be called')", monkeypatch)
    with pytest.raises(StorageError, match="1 MB are free"):
        store.pull(NAME, tmp_path)


def test_no_package_client_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither uv nor pip: the error says what to install."""
    tiny_bundle(monkeypatch)
    monkeypatch.setattr(store, "package_client", lambda *_: None)
    with pytest.raises(ConfigError, match="no package client"):
        store.pull(NAME, tmp_path)


def test_a_package_client_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale UV variable is named in the error."""
    tiny_bundle(monkeypatch)
    monkeypatch.setenv("UV", "/nowhere/uv")
    with pytest.raises(ConfigError) as error:
        store.pull(NAME, tmp_path)
    assert error.value.where == "/nowhere/uv"


def test_the_client_command_never_builds_or_resolves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is fetched alone: its dependencies would be large and are not needed."""
    monkeypatch.setenv("UV", "/opt/uv")
    command = store.package_client("thing==1", tmp_path / "t", tmp_path / "w")
    assert command is not None
    assert command[0] == "/opt/uv"
    assert {"--no-deps", "--no-build", "thing==1"} <= set(command)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (NAME, f"agentd model pull {NAME}"),
        ("org/some-model", "agentd model pull org/some-model"),
        ("/nowhere/at/all", "bundled"),
        ("no-such-name", "bundled"),
        ("../up", "bundled"),
    ],
)
def test_a_missing_model_names_the_next_step(tmp_path: Path, name: str, hint: str) -> None:
    """A model that is not there is a ConfigError with what to do."""
    with pytest.raises(ConfigError) as error:
        store.resolve(name, tmp_path)
    assert hint in error.value.hint


def test_folders_are_models_too(tmp_path: Path, tiny_model: Path) -> None:
    """A local folder resolves to itself and is never fetched; the list shows what is pulled."""
    assert store.resolve(str(tiny_model), tmp_path) == tiny_model.resolve()
    assert store.pull(str(tiny_model), tmp_path) == tiny_model.resolve()
    (found,) = store.available(tmp_path)
    assert (found.name, found.folder, found.bundled) == (NAME, None, True)
    pulled = tmp_path / "org--name"
    pulled.mkdir()
    (pulled / "config.json").write_text("{}")
    assert [model.name for model in store.available(tmp_path)] == [NAME]  # not complete
    (pulled / huggingface.COMPLETE).touch()
    assert {model.name for model in store.available(tmp_path)} == {"org/name", NAME}
    assert store.resolve("org/name", tmp_path) == pulled


def test_a_model_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its room on the disk is free again; what is not there, or a person's own, is told."""
    tiny_bundle(monkeypatch)
    folder = tmp_path / "models" / NAME
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    assert store.remove(NAME, tmp_path / "models") == (folder, 1000)
    assert [*(tmp_path / "models").glob(NAME), *(tmp_path / "models").glob(".pull-*")] == []
    with pytest.raises(UsageError, match="not here"):
        store.remove(NAME, tmp_path / "models")
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(UsageError, match="yours"):
        store.remove(str(own), tmp_path / "models")
    assert own.is_dir()


def test_the_hub_offline_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hub the error names the way out, not a stack of HTTP exceptions."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        store.pull("org/name", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    class TransportError(Exception):
        """As its HTTP library has them: no OSError."""

    for error in (ConnectionError("no route"), TransportError("no route")):

        def unreachable(*_args: object, _error: Exception = error, **_more: object) -> None:
            raise _error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
        with pytest.raises(ConfigError, match="cannot reach"):
            store.pull("org/name", tmp_path)


def test_what_the_progress_raises_reaches_who_pulls(tmp_path: Path) -> None:
    """Nobody reads what is printed any more (`| head`), say: the thread alone would end."""

    def gone(*_: object) -> None:
        told.set()
        raise BrokenPipeError

    told = threading.Event()
    with pytest.raises(BrokenPipeError), huggingface._polled(tmp_path, 1, "fetching", gone):
        assert told.wait(10)


def test_smollm2_is_converted_with_its_tokenizer(smollm2: Path) -> None:
    """The rebuilt tokenizer splits digits, keeps words whole and knows its markers."""
    language = ModelLanguage(smollm2)
    assert language.window == 8192
    assert language.encode("hello world 2026") == [28120, 905, 216, 34, 32, 34, 38]
    chat = language.encode_chat([{"role": "user", "content": "hi"}]).tokens
    assert chat[0] == 1
    assert chat[-4:] == [198, 1, 520, 9531] or chat[-1] == 198
    assert huggingface.folder_bytes(smollm2) < 110_000_000


PRODUCT = """
import sys, time
from agentd.model_server.engine import blas
print(blas.speed_up(sys.argv[1]))
import mlx.core as mx, numpy as np
a, b = mx.random.normal((300, 200)), mx.random.normal((400, 200))
mx.eval(a, b)
assert np.allclose(np.array(a @ b.T), np.array(a) @ np.array(b).T, atol=1e-3)
x, w = mx.random.normal((256, 1024)), mx.random.normal((1024, 1024))
mx.eval(x, w, x @ w)
best = 9.0
for _ in range(8):
    started = time.perf_counter()
    mx.eval(x @ w)
    best = min(best, time.perf_counter() - started)
print(best)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate and Metal")
def test_a_fast_blas_is_found_right_and_faster() -> None:
    """MLX on Linux multiplies right and much faster with the BLAS that we find for it."""

    def measure(allowed: str) -> tuple[str, float]:
        command = [sys.executable, "-c", PRODUCT, allowed]
        # One thread: on a busy machine two that wait for each other are slower than one.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60, env=environment
        )
        found, seconds = output.stdout.split()
        return found, float(seconds)

    found, fast = measure("auto")
    if found == "none":
        pytest.skip("this machine has no OpenBLAS, and numpy's cannot be used on it")
    nothing, slow = measure("off")
    assert nothing == "none"
    assert fast < slow / 3


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_blas_that_computes_wrong_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the redirected product fails its check, the old code is put back."""
    results = iter([False, True])
    real = blas._multiplies
    monkeypatch.setattr(blas, "_load_system", lambda: False)
    monkeypatch.setattr(blas, "_multiplies", lambda f: real(f) and next(results))
    assert blas.speed_up("numpy") == "none"
    slow = blas._inside("mlx", "mlx_cpu.libs", "libblas-*.so*")
    if slow is not None:
        import ctypes

        assert real(ctypes.CDLL(str(slow)).cblas_sgemm)


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    """A models folder that cannot be made says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        store.pull(NAME, tmp_path / "file" / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_log_that_has_grown_begins_with_the_same_tokens(tiny_model: Path) -> None:
    """Events are tokenised one by one, and each one's end is where a later prompt may go on."""
    language = ModelLanguage(tiny_model)
    fixed = "These are the instructions."
    log, before = "", None
    for turn in range(4):
        log += f'<event type="result" ts="{turn}" trusted="no">\n{{"line":"{turn}"}}\n</event>\n'
        # Gemma's template and its like put both into one message.
        prompt = language.encode_chat([{"role": "user", "content": f"{fixed}\n\n{log}"}])
        assert len(prompt.checkpoints) == turn + 2
        assert (
            language.decode(prompt.tokens[: prompt.checkpoints[0]])
            .decode()
            .endswith(f"{fixed}\n\n")
        )
        if before is not None:
            assert prompt.checkpoints[:-1] == before.checkpoints
            end = before.checkpoints[-1]
            assert prompt.tokens[:end] == before.tokens[:end]
        before = prompt
