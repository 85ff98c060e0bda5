"""The model server's page: its examples run as they stand, but for curl's port and model."""

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

from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.http.callers import Caller
from agentd.model_server.language.language import ModelLanguage
from agentd.paths import discover
from tests.pages import page
from tests.serving import NAME, TOKEN, Serving, serving
from tests.wanting import WantingEngine


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    places = discover()
    places.create()
    places.token.write_text(TOKEN + "\n")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # has agentd
    language = ModelLanguage(tiny_model)

    def load(_language: Any) -> WantingEngine:
        return WantingEngine(language, lambda call: "Hello, you.")

    with serving(load, lambda: language) as server:
        address = {"url": f"http://127.0.0.1:{server.port}/v1", "model": NAME}
        places.model_address.write_text(json.dumps(address))
        yield server


PAGE = page("agentd/model_server")


def test_python(server: Serving) -> None:
    """The official client, set up as in the page, parses, calls and streams."""
    (example,) = PAGE.blocks("python")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example, str(PAGE.path), "exec"), {})
    label, arguments, text = out.getvalue().split("\n")
    assert label in ("question", "order", "other")
    assert json.loads(arguments)["kind"] in ("question", "order", "other")
    assert text == "Hello, you."


def test_python_needs_nothing_of_agentds_own_environment() -> None:
    """A `uv tool install` gives a command, and no package that other programs can import."""
    (example,) = PAGE.blocks("python")
    froms = {
        node.module for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)
    }
    assert {str(name) for name in froms} - sys.stdlib_module_names == {"openai", "pydantic"}
    assert "`pip install openai`" in PAGE.text  # which brings pydantic


def test_curl(server: Serving) -> None:
    """The curl line is a request that is answered, sent by curl where it is, and else by hand."""
    (line,) = PAGE.blocks("sh")
    line = re.sub(r"(?<=127\.0\.0\.1:)\d+", str(server.port), line).replace("smollm2-135m", NAME)
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
        done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=60)
        answers.append(done.stdout)
    for answer in answers:
        assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello, you."


def test_the_bodies_are_taken(tiny_model: Path) -> None:
    """Those of labels and of scores, by an engine that honours them."""
    language = ModelLanguage(tiny_model)
    labels, scores = (json.loads(block) for block in PAGE.blocks("json"))

    def load(_language: Any) -> MlxEngine:
        return MlxEngine(tiny_model, language, fast_blas=True)

    with serving(load, lambda: language) as server:
        status, answer = server.post("/v1/chat/completions", {**labels, "model": NAME})
        assert status == 200
        assert answer["choices"][0]["agentd_labels"].keys() == labels["agentd_labels"].keys()
        status, answer = server.post("/v1/score", {**scores, "model": NAME})
        assert [len(row) for row in answer["scores"]] == [2, 2]


def test_endpoints_and_headers_are_documented(server: Serving) -> None:
    """Every endpoint in the page is there, every header that is read is in the page."""
    for method, path in re.findall(r"`(GET|POST) (/[\w/]+?)(?:/NAME)?`", PAGE.text):
        found = server.exchange(method, path, b"" if method == "POST" else None)[0]
        assert found in (200, 400), path
    for name in Caller.model_fields:
        assert f"`X-Agentd-{name.capitalize()}`" in PAGE.text
