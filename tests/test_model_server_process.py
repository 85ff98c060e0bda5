"""The model server as the supervisor runs it: a process, signals, exit codes, the real model."""

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd import paths
from agentd.config.last_good import keep
from agentd.model_server import __main__ as server_main
from agentd.model_server import serve
from agentd.model_server.engine.watchdog import EXIT_STALLED, Progress
from agentd.process.heart import Heart
from agentd.states import Exit
from tests.serving import DEADLINE_S, ListLog, Serving, wait_for

TOKEN = "test-token"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    places = paths.discover({paths.HOME_VARIABLE: str(tmp_path)})
    places.create()
    places.token.touch(0o600)
    places.token.write_text(TOKEN)
    yield tmp_path


def test_mlx_is_not_loaded_before_its_blas_is_chosen() -> None:
    """The system's OpenBLAS must be there first, and the trial of numpy's forks this process."""
    code = "import sys, agentd.model_server.__main__; print('mlx.core' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def token_of(home: Path) -> Path:
    return paths.discover({paths.HOME_VARIABLE: str(home)}).token


def command(model: Path | str, *more: str) -> list[str]:
    return [sys.executable, "-m", "agentd.model_server", "--model", str(model), *more]


@contextmanager
def spawned(home: Path, model: Path, *more: str) -> Iterator[tuple[Serving, subprocess.Popen[str]]]:
    """Start a server on an inherited socket, as the supervisor does."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    process = subprocess.Popen(
        command(model, "--name", "scripted", "--fd", str(sock.fileno()), *more),
        env={**os.environ, "AGENTD_HOME": str(home)},
        pass_fds=[sock.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Serving(sock.getsockname()[1], None, ListLog())  # type: ignore[arg-type]
    sock.close()
    try:
        yield server, process
    finally:
        process.kill()
        process.wait()


def log_lines(home: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for line in (home / "logs" / "model" / "model.jsonl").read_text().splitlines()
    ]


def test_sigterm_ends_a_busy_server_in_order(home: Path, tiny_model: Path) -> None:
    """SIGTERM in the middle of a generation: the client gets an error, the exit code is 0."""
    with spawned(home, tiny_model) as (server, process):
        wait_for(lambda: server.get("/ready")[0] == 200)
        connection = server.connect()
        body = {
            "model": "scripted",
            "messages": [{"role": "user", "content": "go"}],
            "stream": True,
            "max_tokens": 2000,
            "temperature": 1.9,
        }
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}"},
        )
        response = connection.getresponse()
        while b"content" not in response.readline():
            pass
        process.send_signal(signal.SIGTERM)
        rest = response.read()
        connection.close()
        assert process.wait(DEADLINE_S) == Exit.OK, process.stdout and process.stdout.read()
    assert b"[DONE]" in rest or b"stopping" in rest
    assert log_lines(home)[-1]["event"] == "model.stopped"


def answered(server: Serving, body: dict[str, object]) -> Any:
    """Return the answer once the server is ready for it."""
    ready = server.get("/ready")[0] == 200
    return server.post("/v1/chat/completions", body)[1] if ready else None


def test_a_restart_keeps_what_was_prefilled(home: Path, tiny_model: Path) -> None:
    """After an orderly stop the next process finds the prompt caches; kill -9 loses new ones.

    Also while agentd.toml is wrong: the last one that was right counts.
    """
    places = paths.discover({paths.HOME_VARIABLE: str(home)})
    keep(places)
    places.daemon_file.write_text("half a fi")
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "remember this " * 9}],
        "max_tokens": 2,
        "temperature": 0,
    }
    cached, answers = [], []
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        with spawned(home, tiny_model) as (server, process):
            answer = wait_for(partial(answered, server, body))
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == (Exit.OK if number == signal.SIGTERM else -number)
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        answers.append(answer["choices"][0]["message"]["content"])
    assert cached[0] == 0
    assert cached[1] == cached[2] == answer["usage"]["prompt_tokens"] - 1
    assert len(set(answers)) == 1


def test_prompt_caches_can_be_kept_off_the_disk(home: Path, tiny_model: Path) -> None:
    """Then nothing is written, and what an earlier server wrote, or half wrote, is removed."""
    places = paths.discover({paths.HOME_VARIABLE: str(home)})
    body = {"model": "scripted", "messages": [{"role": "user", "content": "remember this " * 9}]}
    for options in ((), ("--saved-cache-bytes", "0")):
        half = places.prompt_caches.with_name(".prompt-caches.new.safetensors")
        if options:
            half.write_bytes(b"x")
        with spawned(home, tiny_model, *options) as (server, process):
            wait_for(partial(answered, server, {**body, "max_tokens": 2}))
            process.terminate()
            assert process.wait(DEADLINE_S) == Exit.OK
        assert places.prompt_caches.exists() is not bool(options)
    assert not half.exists()


def test_a_standing_engine_ends_the_process(home: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A load that makes no progress is ended with the watchdog's own code."""
    folder = tmp_path / "endless"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    os.mkfifo(folder / "tokenizer.json")  # nobody ever writes
    with spawned(home, folder, "--load-limit", "0.5") as (_server, process):
        assert process.wait(DEADLINE_S) == EXIT_STALLED
    assert any(line["event"] == "engine.stalled" for line in log_lines(home))


def run_to_end(home: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        command(*arguments),
        env={**os.environ, "AGENTD_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_wrong_starts_are_one_clear_line(home: Path, tiny_model: Path) -> None:
    """A missing model, an open token, a port in use: an exit code and a hint, no traceback."""
    missing, text = run_to_end(home, "smollm2-135m")
    assert missing == Exit.CONFIG
    assert "agentd model pull smollm2-135m" in text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = run_to_end(home, str(tiny_model), "--port", str(port))
    assert code == Exit.TEMPORARY
    assert str(port) in text
    token_of(home).chmod(0o644)
    code, more = run_to_end(home, str(tiny_model))
    assert code == Exit.CONFIG
    assert "chmod 600" in more
    assert "Traceback" not in text + more


def test_a_damaged_model_exits_as_a_configuration_error(home: Path, tmp_path: Path) -> None:
    """A model that fails while loading ends the process with 78, so that it is not retried."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    code, text = run_to_end(home, str(broken))
    assert code == Exit.CONFIG
    assert "tokenizer.json" in text
    assert "Traceback" not in text


def test_smollm2_decides_legally(home: Path, smollm2: Path) -> None:
    """The bundled model, in the real process, answers a schema legally and says what it cost."""
    schema = {
        "type": "object",
        "properties": {"tool": {"const": "done"}, "risk": {"enum": ["low", "high"]}},
        "required": ["tool", "risk"],
    }
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "A file was deleted. Risk?"}],
        "temperature": 0,
        "max_tokens": 24,
        "response_format": {"type": "json_schema", "json_schema": {"name": "d", "schema": schema}},
    }
    with spawned(home, smollm2) as (server, process):
        wait_for(lambda: server.get("/ready")[0] == 200 or process.poll() is not None)
        status, answer = server.post("/v1/chat/completions", body)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == Exit.OK
    assert status == 200
    assert json.loads(answer["choices"][0]["message"]["content"])["risk"] in ("low", "high")
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] <= 24


def test_a_model_that_comes_back_is_out_of_the_collectors_way_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each full collection walks through the whole model, after the first idle time."""
    monkeypatch.setattr(serve, "BEAT_S", 0.001)

    class Loaded:
        loaded, beats = True, 0
        progress = Progress()

        def waiting(self) -> int:
            self.beats += 1
            return 0

        def running(self) -> int:
            return 0

    runner: Any = Loaded()

    async def frozen() -> None:
        while gc.get_freeze_count() == 0:
            await asyncio.sleep(0)

    async def another_beat() -> None:
        before = runner.beats
        while runner.beats < before + 2:
            await asyncio.sleep(0)

    async def run() -> None:
        beating = asyncio.ensure_future(serve.beat(Heart(None), runner))
        await asyncio.wait_for(frozen(), 20)
        runner.loaded = False
        gc.unfreeze()  # as an engine does that lets go of its memory
        await asyncio.wait_for(another_beat(), 20)
        assert gc.get_freeze_count() == 0
        runner.loaded = True
        await asyncio.wait_for(frozen(), 20)
        beating.cancel()

    try:
        asyncio.run(run())
    finally:
        gc.unfreeze()


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    """--host chooses another address, and the log says that others can connect then."""
    for arguments, address, warned in (
        ([], "127.0.0.1", False),
        (["--host", "127.0.0.2"], "127.0.0.2", False),
        (["--host", "0.0.0.0"], "0.0.0.0", True),
    ):
        log = ListLog()
        with server_main._socket(server_main._options(["--model", "x", *arguments])) as sock:
            assert sock.getsockname()[0] == address
            server_main._warn_if_exposed(sock, log)  # type: ignore[arg-type]
        assert [line["event"] for line in log.lines] == ["model.exposed"] * warned


def test_a_host_that_cannot_be_had_is_one_clear_line(home: Path, tiny_model: Path) -> None:
    """Not this machine's address, or beside a socket that listens already: an exit code, a hint."""
    code, text = run_to_end(home, str(tiny_model), "--host", "203.0.113.7", "--port", "8080")
    assert code == Exit.TEMPORARY
    assert "203.0.113.7:8080" in text and "Traceback" not in text
    code, text = run_to_end(home, str(tiny_model), "--host", "127.0.0.1", "--fd", "3")
    assert code == Exit.USAGE
    assert "--host" in text
