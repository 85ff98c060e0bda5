"""A home whose model server is our own: real daemon, workers and HTTP; only the engine is scripted.

Run as a script it is the daemon, or the model server that this starts.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentd.config.daemon import DaemonConfig
from agentd.llm.address import NotThere, fetch, own_address
from agentd.model_server.calls import Call, Mask
from agentd.paths import discover
from agentd.process import child
from agentd.testing.tiny_model import ScriptedEngine, ScriptedLanguage
from tests.livehome import Home
from tests.supervised import remove_sockets

FILE = Path(__file__).resolve()
ANSWER = '{"tool":"done","result":"Hello!"}'
QUICK = "[supervisor]\nbackoff_first = '50ms'\nbackoff_max = '100ms'\ncrashes = 10000\n"
STEP_VARIABLE = "TEST_STEP_S"  # seconds of a step of the engine


class LinkedHome(Home):
    """A home with agents that greet, and a model server of its own."""

    rules = QUICK
    step_s = 0.0

    def launch(self) -> None:
        folder = self.paths.models / "smollm2-135m"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        self.drop()
        self.configure()
        self.process = subprocess.Popen(
            [sys.executable, str(FILE), "run"],
            env={
                **os.environ,
                "AGENTD_HOME": str(self.root),
                "PYTHONPATH": str(FILE.parents[1]),
                STEP_VARIABLE: str(self.step_s),
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    def configure(self, more: str = "") -> None:
        text = f"{self.rules}[bus]\npoll = '200ms'\n[model]\nport = 0\n{more}"
        self.paths.daemon_file.write_text(text)

    @property
    def port(self) -> int:
        return int(self.document()["model"]["url"].split(":")[2].removesuffix("/v1"))

    def ready(self) -> bool:
        try:
            return fetch(own_address(self.paths), "/ready", 5.0) is not None
        except NotThere:
            return False

    def model_state(self) -> str:
        return str(self.document().get("model", {}).get("state"))


@contextlib.contextmanager
def linked_home(
    root: Path, *agents: str, rules: str = QUICK, step_s: float = 0.0
) -> Iterator[LinkedHome]:
    home = LinkedHome(root)
    home.model.close()  # it is not needed
    home.agents, home.rules, home.step_s = agents or home.agents, rules, step_s
    try:
        home.start()
        home.until(home.ready, "the model server is ready")
        yield home
    finally:
        if home.process is not None and home.process.poll() is None:
            home.process.kill()
            home.process.communicate()
        remove_sockets(home.paths)


class FreeLanguage(ScriptedLanguage):
    """Whatever is asked for, the script answers."""

    def mask(self, schema: object) -> Mask:
        return None  # type: ignore[return-value]


def _run() -> int:
    from agentd.supervisor.argv import Commands
    from agentd.supervisor.main import run

    def model_server(fd: int, config: DaemonConfig) -> list[str]:
        _, _, _, _, *options = Commands().model_server(fd, config)
        return [sys.executable, str(FILE), "model", os.environ[STEP_VARIABLE], *options]

    child.child_side()
    run(discover(), commands=Commands(model_server=model_server))
    return 0


def _model(step_s: str, *options: str) -> int:
    """Serve as agentd/model_server does, but for the engine."""
    from agentd.model_server import __main__, serve

    pause = threading.Event()

    def step(_calls: Sequence[Call]) -> None:
        pause.wait(float(step_s))  # a model takes its time

    engine = ScriptedEngine(lambda _call: ANSWER, slots=4, before_step=step)
    vars(serve)["ModelLanguage"] = lambda *_, **__: FreeLanguage()
    serve.Serving._load_engine = lambda *_: engine  # type: ignore[method-assign]
    return __main__.main(list(options))


if __name__ == "__main__":
    roles = {"run": _run, "model": _model}
    sys.exit(roles[sys.argv[1]](*sys.argv[2:]))  # type: ignore[operator]
