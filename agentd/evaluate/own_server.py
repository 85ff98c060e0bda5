"""A model server of one's own, for an evaluation while no daemon runs or with another model."""

import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from agentd.config.daemon import DaemonConfig
from agentd.errors import ConfigError
from agentd.llm.address import Address, fetch
from agentd.models import store
from agentd.paths import HOME_VARIABLE, Paths, discover, private_folder
from agentd.process import environment
from agentd.process.child import Child
from agentd.process.until import until
from agentd.supervisor.argv import Commands
from agentd.whole import write_whole

# A window that is half full may take a slow machine minutes to read.
CALL_DEADLINE = timedelta(minutes=15)
LOAD_S = 900.0  # for a large model to be read from the disk
LOOK_S = 0.1
STOP_S = 10.0
ANSWER_S = 5.0
QUEUE = 4


@contextmanager
def own_server(
    name: str, config: DaemonConfig, paths: Paths, waiting: Callable[[], None]
) -> Iterator[Address]:
    """Run a model server for this model until the block ends; yield where it is.

    `waiting` is called now and then while the model is loaded. Its log goes with it.

    Raises:
        ConfigError: the model is not here, or cannot be loaded.
    """
    store.resolve(name, paths.models)
    home = discover({HOME_VARIABLE: tempfile.mkdtemp(prefix="agentd-eval-")})
    private_folder(paths.models)
    home.models.symlink_to(paths.models)
    try:
        home.create()
        write_whole(home.token, secrets.token_urlsafe(32))
        deadline = max(config.model.call_deadline, CALL_DEADLINE)
        model = config.model.model_copy(update={"name": name, "call_deadline": deadline})
        child = _spawn(home, config.model_copy(update={"model": model}))
        try:
            url = f"http://127.0.0.1:{child[1]}/v1"
            address = Address(url, name, home.token.read_text())
            _wait(child[0], address, waiting)
            yield address
        finally:
            _stop(child[0])
    finally:
        shutil.rmtree(home.data, ignore_errors=True)


def _spawn(home: Paths, config: DaemonConfig) -> tuple[Child, int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(QUEUE)
        fd = listening.fileno()
        child = Child.spawn(
            "model",
            Commands().model_server(fd, config),
            home.locks,
            env=environment.for_model_server() | {HOME_VARIABLE: str(home.data)},
            cwd=home.data,
            pass_fds=(fd,),
        )
        return child, listening.getsockname()[1]


def _wait(child: Child, address: Address, waiting: Callable[[], None]) -> None:
    """Return when the server has generated a token, or raise what it said before it died."""
    for _ in until(LOAD_S, LOOK_S):
        if _ready(address):
            return
        said = Child.read(child.output_fd) or b""
        if child.poll() is not None:
            text = said.decode("utf-8", "replace").strip()
            raise ConfigError(
                f"the model server ended: {text or 'it said nothing'}",
                where=address.model,
                hint="`agentd model list` shows the models that are here",
            )
        child.beats()  # nobody else empties the pipe
        waiting()
    raise ConfigError(f"was not loaded within {LOAD_S:.0f} s", where=address.model)


def _ready(address: Address) -> bool:
    return fetch(address, "/ready", ANSWER_S) is not None


def _stop(child: Child) -> None:
    """Ask it to stop; kill it if it does not."""
    child.terminate()
    if not _ended(child):
        child.kill()
        _ended(child)
    child.close()


def _ended(child: Child) -> bool:
    return any(child.poll() is not None for _ in until(STOP_S, LOOK_S))
