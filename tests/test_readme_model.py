"""The README's examples of the model server run as they stand, but for port and model."""

import ast
import contextlib
import http.client
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.config.daemon import MODEL_PORT
from agentd.model_server.http.requests import Caller
from agentd.model_server.language.language import ModelLanguage
from agentd.paths import discover
from tests.serving import NAME, TOKEN, Serving, serving
from tests.test_readme import README, blocks
from tests.wanting import WantingEngine


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    places = discover()
    places.create()
    places.token.write_text(TOKEN + "\n")
    language = ModelLanguage(tiny_model)

    def load(_language: Any) -> WantingEngine:
        return WantingEngine(language, lambda call: "Hello, you.")

    with serving(load, lambda: language) as server:
        yield server


def example(language: str, word: str, server: Serving) -> str:
    """Return the README's block with a word, for this server."""
    (text,) = [block for block in blocks(language) if word in block]
    return text.replace(f":{MODEL_PORT}/", f":{server.port}/").replace("smollm2-135m", NAME)


def test_python(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client, set up as in the README, parses, calls and streams."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example("python", "OpenAI(", server), "README.md", "exec"), {})
    label, arguments, text = out.getvalue().split("\n")
    assert label in ("question", "order", "other")
    assert json.loads(arguments)["kind"] in ("question", "order", "other")
    assert text == "Hello, you."


def test_python_needs_nothing_of_agentds_own_environment(server: Serving) -> None:
    """A `uv tool install` gives a command, and no package that other programs can import."""
    tree = ast.parse(example("python", "OpenAI(", server))
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {str(name) for name in froms} - sys.stdlib_module_names == {"openai", "pydantic"}
    assert "`pip install openai`" in README  # which brings pydantic


def test_curl(server: Serving) -> None:
    """The curl line is a request that is answered, sent by curl where it is, and else by hand."""
    line = example("sh", "curl ", server)
    words = shlex.split(
        line.replace("\\\n", " ").replace('$(cat "$(agentd paths run)/model.token")', TOKEN)
    )
    url, *rest = words[1:]
    options = list(zip(rest[::2], rest[1::2], strict=True))
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    (body,) = [value for name, value in options if name == "-d"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/" + url.split("/", 3)[3], body.encode(), headers)
    answers = [connection.getresponse().read()]
    connection.close()
    if shutil.which("curl"):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where agentd is
        done = subprocess.run(
            ["sh", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, timeout=60
        )
        answers.append(done.stdout)
    for answer in answers:
        assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello, you."


def test_endpoints_and_headers_are_documented(server: Serving) -> None:
    """Every endpoint in the README is there, every header that is read is in the README."""
    for method, path in re.findall(r"`(GET|POST) (/[\w/]+?)(?:/NAME)?`", README):
        found = server.exchange(method, path, b"" if method == "POST" else None)[0]
        assert found in (200, 400), path
    for name in Caller.model_fields:
        assert f"`X-Agentd-{name.capitalize()}`" in README
