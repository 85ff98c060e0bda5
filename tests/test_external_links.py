"""A worker's way to the server of `[model] url`: its supervisor connects, to that host alone."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from agentd.config.daemon import ModelConfig
from agentd.errors import AgentdError, ConfigError
from agentd.paths import discover
from agentd.supervisor.external_model import handlers
from agentd.supervisor.requests import Asker


def ask(kind: str, tmp_path: Path, **model: Any) -> Any:
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    answer = handlers(lambda: ModelConfig(**model), paths)[kind]
    return asyncio.run(answer(Asker("one", "v", 1), {}))  # type: ignore[arg-type]


def test_a_connection_leads_to_the_configured_host(tmp_path: Path) -> None:
    """Whatever the worker says: nothing of its request is read."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        answer, fds = ask("connection", tmp_path, url=f"http://localhost:{port}/v1")
        assert answer == {}
        with socket.socket(fileno=fds[0]) as ours, listening.accept()[0] as theirs:
            ours.setblocking(True)
            ours.sendall(b"here")
            assert theirs.recv(9) == b"here"


def test_why_there_is_none_is_told(tmp_path: Path) -> None:
    """As the worker would have seen it: what it does then goes by the system's own error."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        answer, fds = ask("connection", tmp_path, url=url)
    assert (answer["errno"], list(fds)) == (111, []) or "refused" in answer["why"]
    answer, fds = ask("connection", tmp_path, url="http://nowhere.invalid/v1")
    assert answer["why"] and list(fds) == []
    with pytest.raises(AgentdError, match=r"no \[model\] url"):
        ask("connection", tmp_path)


def test_the_key_comes_with_it(tmp_path: Path) -> None:
    """Read anew each time: a person may correct it."""
    key = tmp_path / "key"
    table = {"url": "http://127.0.0.1:1/v1", "api_key_file": key}
    with pytest.raises(ConfigError, match="cannot be read"):
        ask("model_key", tmp_path, **table)
    key.write_text("sesame\n")
    assert ask("model_key", tmp_path, **table)[0] == {"key": "sesame"}
    assert ask("model_key", tmp_path, url=table["url"])[0] == {"key": ""}
