"""The model server as the supervisor runs it: its socket, token, address file and process.

With `[model] url` no process is run, and the address file points to that server.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.clock import Clock
from agentd.config.daemon import DaemonConfig, ModelConfig
from agentd.errors import AgentdError, ConfigError, Problem, StorageError, storage_errors
from agentd.logs.logger import Logger
from agentd.macos import launchd
from agentd.models import store
from agentd.paths import Paths
from agentd.process import environment
from agentd.process.child import Child
from agentd.states import WorkerState
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Managed, Reaper
from agentd.supervisor.loopback import BACKLOG, HOST, loopback
from agentd.supervisor.requests import Answer, Asker
from agentd.supervisor.restart import RESTING, Ended, Life
from agentd.whole import write_whole

NAME = "model"
PORT_KEY = "model.port"  # of agentd.toml
EXTERNAL = "an external server is used"  # commands ask it themselves how it is
TOKEN_BYTES = 32
# From a crash loop to one more try: a GPU without memory aborts MLX (ml-explore/mlx#3224), and what
# took it, another program as a rule, ends some time.
PARKED_S = 900.0


class ModelHost:
    """Runs the model server that `[model]` asks for."""

    def __init__(
        self,
        paths: Paths,
        config: DaemonConfig,
        commands: Commands,
        life: Life,
        reaper: Reaper,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.problem: Problem | None = None  # why none can be started
        self._paths, self._commands, self._clock = paths, commands, clock
        self._socket: socket.socket | None = None  # bound, not yet handed to a server
        self._daemon = config
        self._port = config.model.port
        self._token = self._address = ""  # what stands in their files, once they are written
        self._parked_at: float | None = None  # monotonic: since then it has been seen parked
        self.managed = Managed(
            NAME, self._spawn, life, reaper, self._on_change, log=log, clock=clock
        )

    @property
    def config(self) -> ModelConfig:
        """The [model] table in force."""
        return self._daemon.model

    def prepare(self) -> None:
        """Write the token, and take the port.

        Under launchd nobody reads an error, and what holds the port may let it go: there the server
        is begun again and again, as after a crash.

        Raises:
            ConfigError: the configured port is in use.
            StorageError: the token cannot be written or read.
        """
        write_token(self._paths.token)
        try:
            self._token = self._paths.token.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(
                f"cannot be read: {error}", where=str(self._paths.token), hint="remove it"
            ) from error
        if self.config.url is None and not launchd.under_launchd():
            self._bind()

    def restore(self) -> list[Path]:
        """Make token, address and socket again where somebody removed them; return which.

        The same token as was there last: programs have it.

        Raises:
            AgentdError: one cannot be made.
        """
        self.read_token()
        wanted = {self._paths.token: self._token, self._paths.model_address: self._address}
        missing = [path for path, text in wanted.items() if text and not path.exists()]
        for path in missing:
            _write_private(path, wanted[path])
        if self.managed.pid is not None and not self._paths.model_socket.exists():
            self._open_socket()
            missing.append(self._paths.model_socket)
        return missing

    def read_token(self) -> None:
        """Take the token in force from its file, which `agentd token --renew` writes."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self._token = self._paths.token.read_text() or self._token

    def start(self) -> None:
        """Start the server, or wait for its model, or point to the external one.

        Raises:
            StorageError: the external one's address cannot be written.
        """
        if self.config.url is not None:
            self._write_address(self.config.url, None)
            self.managed.stop(WorkerState.STOPPED, EXTERNAL)
            return
        try:
            store.resolve(self.config.name, self._paths.models)
        except ConfigError as error:
            self.problem = error.document()
            self.managed.stop(WorkerState.WAITING, error.what)
            return
        self.problem = None
        self.managed.start()

    def poll(self) -> None:
        """Start it if what it waited for has come, or it was given up for long: all need it."""
        if self.waiting:
            self.start()
        life, now = self.managed.life, self._clock.monotonic()
        if life.state is not WorkerState.PARKED:
            self._parked_at = None
        elif self._parked_at is None:
            self._parked_at = now
        elif now - self._parked_at >= PARKED_S:
            self._parked_at = None
            life.try_once()  # not as often as for a person
            self.start()

    @property
    def waiting(self) -> bool:
        """Whether the server waits for its model."""
        return self.managed.life.state is WorkerState.WAITING

    def reconfigure(self, config: DaemonConfig) -> None:
        """Take a changed configuration; restart the server if [model] is another.

        Raises:
            ConfigError: the new port is in use; everything stays as it was.
        """
        old, new = self.config, config.model
        if new == old:
            self._daemon = config
            return
        moves = new.port not in (0, self._port, old.port)
        if new.url is None and moves:
            try:
                taken = loopback(new.port, PORT_KEY)
            except ConfigError:
                if new.fixed_port:
                    raise
            else:
                self._release()
                self._socket, self._port = taken, new.port
        self._daemon = config
        self.managed.life.forgive()
        if self.managed.pid is None or new.url is not None:
            self.start()
        else:
            self.managed.restart()

    def retry(self) -> None:
        """Start a server that was given up."""
        if self.managed.life.state in RESTING:
            self.managed.life.forgive()
            self.start()

    def close(self) -> None:
        """Forget the address: nobody answers there any more."""
        self._release()
        self._address = ""
        with contextlib.suppress(OSError):
            self._paths.model_address.unlink()

    async def link(self, asker: Asker, _: Mapping[str, Any]) -> Answer:
        """Answer a worker that asks for `model`: the address, and its end of a link of its own.

        The server gets the other end with the agent's name. The link ends with the server.

        Raises:
            AgentdError: no server of ours runs now.
        """
        theirs, ours = socket.socketpair()
        with ours:
            try:
                self.managed.hand_over({"agent": asker.name}, ours)
            except AgentdError:
                theirs.close()
                raise
        return json.loads(self._address), [theirs.detach()]

    def document(self) -> dict[str, Any]:
        """Return its state for `status`."""
        return {
            "name": self.config.name,
            "url": self.config.url or f"http://{HOST}:{self._port}/v1",
            "external": self.config.url is not None,
            **self.managed.document(),
            "reason": self.managed.life.reason or self._gave_way(),
            "problem": self.problem or self.managed.problem,
        }

    def _gave_way(self) -> str:
        """Say that the default port is another program's; "" where it is ours."""
        port = self.config.port
        if self.config.url or self.config.fixed_port or port in (0, self._port):
            return ""
        return f"port {port} was taken, so it listens on another one"

    def _spawn(self) -> Child:
        listening = self._bind()
        url = f"http://{HOST}:{self._port}/v1"
        self._write_address(url, None)
        try:
            child = Child.spawn(
                NAME,
                self._commands.model_server(listening.fileno(), self._daemon),
                self._paths.locks,
                env=environment.for_model_server(),
                cwd=self._paths.data,
                pass_fds=(listening.fileno(),),
                control=True,
                clock=self._clock,
            )
        finally:
            # Only the server holds it on: when it dies, callers are refused at once instead of
            # waiting in the queue of a socket that nobody accepts from.
            self._release()
        with contextlib.suppress(StorageError):  # the pid is for people
            self._write_address(url, child.pid)
        return child

    def _on_change(self, _: Ended | None) -> None:
        if self.managed.life.state is WorkerState.STARTING:
            with contextlib.suppress(AgentdError):  # `restore` tries again
                self._open_socket()

    def _open_socket(self) -> None:
        """Listen for this user's programs, and let the server accept them. Raises AgentdError."""
        path = self._paths.model_socket
        try:
            with socket.socket(socket.AF_UNIX) as listening:
                path.unlink(missing_ok=True)
                listening.bind(str(path))
                path.chmod(0o600)
                listening.listen(BACKLOG)
                self.managed.hand_over({}, listening)
        except AgentdError:
            path.unlink(missing_ok=True)  # nobody accepts there
            raise
        except OSError as error:
            why = f"cannot make the model server's socket: {error.strerror}"
            raise StorageError(why, where=str(path), hint="make its folder writable") from error

    def _bind(self) -> socket.socket:
        if self._socket is None:
            try:
                self._socket = loopback(self._port, PORT_KEY)
            except ConfigError:
                if self.config.fixed_port:
                    raise
                self._socket = loopback(0, PORT_KEY)  # that one is taken
            self._port = self._socket.getsockname()[1]
        return self._socket

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write_address(self, url: str, pid: int | None) -> None:
        # Workers whose answer broke off learn from it whether the server crashed or was killed.
        crashes = self.managed.life.crashes_total
        document = {"url": url, "model": self.config.name, "pid": pid, "crashes": crashes}
        if self.config.url is None:
            document["socket"] = str(self._paths.model_socket)
        self._address = json.dumps(document)
        _write_private(self._paths.model_address, self._address)


def write_token(path: Path) -> None:
    """Create the server's token, readable by this user alone, unless there is a good one.

    Raises:
        StorageError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o077 and status.st_size:
            return
    renew_token(path)


def renew_token(path: Path) -> None:
    """Write another token. Raises StorageError."""
    _write_private(path, secrets.token_urlsafe(TOKEN_BYTES))


def _write_private(path: Path, text: str) -> None:
    with storage_errors(path, "free some disk space, or make its folder writable"):
        write_whole(path, text)
