"""The two servers as processes: started, asked for their metrics, seen to be idle, ended."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import psutil

from agentd.supervisor.model import write_token
from tests.bench.home import ROOT, Home, memory_mb
from tests.ports import free_port

from . import client

READY_S = 120.0  # from the start to the first answer, the model's load included
IDLE_S = 30.0  # for what its clients left to come to an end
IDLE_TICK_S = 0.2
IDLE_TICKS = 2  # in a row
IDLE_CPU_S = 0.015  # of a tick; the kernel counts in steps of 10 ms
STOP_S = 10.0
NAME = "bench"


class ServerDied(Exception):
    """The server's process ended, or its engine did."""


class Server:
    """One server. Its class says what it is; `client.Target` is what clients need of it."""

    label = ""
    title = ""  # the label at length, as a baseline is called
    about = ""  # what is to be known of it, as a baseline
    masks = True  # whether it is asked for decisions by their schema; else it answers freely
    prefix = ""  # of its metrics' names
    model = ""
    command: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.headers: Mapping[str, str] = {}
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.start_s = 0.0  # from the first start to its first answer
        self._home = Home()
        self._output = self._home.root / f"{type(self).__name__.lower()}.txt"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        raise NotImplementedError

    async def start(self) -> Self:
        """Start it and return when it has answered a first request, which warms it up.

        Raises:
            ServerDied: it has not, within `READY_S`; with the last it said.
        """
        began = time.monotonic()
        self.process = self._spawn()
        until = time.monotonic() + READY_S
        while time.monotonic() < until and self.process.poll() is None:
            answer = await client.chat(self, _hello(), deadline_s=READY_S)
            if answer.answered:
                self.start_s = self.start_s or time.monotonic() - began
                return self
            await asyncio.sleep(0.05)
        raise ServerDied(f"{self.label} did not start: {self.said()}")

    async def restart(self) -> None:
        """Kill it and start it anew."""
        self.stop(kill=True)
        self.restarts += 1
        await self.start()

    async def alive(self) -> bool:
        """Whether its process runs and says that it is well."""
        if self.process is None or self.process.poll() is not None:
            return False
        return (await client.get(self, "/health")).status == 200

    async def idle(self) -> bool:
        """Wait until it computes nothing more; False if it still does after `IDLE_S`.

        Raises:
            ServerDied: its process ended.
        """
        assert self.process is not None
        until, quiet, before = time.monotonic() + IDLE_S, 0, self._cpu_s()
        while time.monotonic() < until:
            await asyncio.sleep(IDLE_TICK_S)
            now = self._cpu_s()
            quiet = quiet + 1 if now - before < IDLE_CPU_S else 0
            before = now
            if quiet == IDLE_TICKS:
                return True
        return False

    async def metrics(self) -> dict[str, float]:
        """Return what its /metrics says, names without their prefix.

        Series with labels are there as they stand, and summed under their bare name.
        """
        answer = await client.get(self, "/metrics")
        if answer.status != 200:
            raise ServerDied(f"{self.label} gives no metrics: {answer.error or answer.status}")
        values: dict[str, float] = {}
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                name = name.removeprefix(self.prefix)
                for key in {name, name.partition("{")[0]}:
                    values[key] = values.get(key, 0.0) + float(value)
        return values

    async def tokenize(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return a conversation's tokens. agentd's server alone can."""
        data = json.dumps({"messages": list(messages)}).encode()
        answer = await client.post(self, "/tokenize", data, deadline_s=30.0)
        if answer.status != 200:
            raise ServerDied(f"{self.label} does not tokenise: {answer.error}")
        tokens: list[int] = json.loads(answer.text)["tokens"]
        return tokens

    def memory_mb(self) -> float:
        """Return the process's memory in MB."""
        assert self.process is not None
        return memory_mb(self.process.pid)

    def said(self) -> str:
        """Return the end of what it printed."""
        text = self._output.read_text("utf-8", "replace") if self._output.exists() else ""
        return " | ".join(text.splitlines()[-8:])

    def stop(self, *, kill: bool = False) -> None:
        """End the process."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:  # stock waits for its own thread
            self.process.kill()
            self.process.wait()
        self.process = None

    def close(self) -> None:
        """End the process and leave nothing behind."""
        self.stop(kill=True)
        self._home.close()

    def _cpu_s(self) -> float:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServerDied(f"{self.label} ended: {self.said()}")
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def _popen(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, **more: Any
    ) -> "subprocess.Popen[bytes]":
        with self._output.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self._home.environment, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                **more,
            )


class Agentd(Server):
    """Our model server, as the supervisor starts it: with a socket that is there before it is."""

    label = "agentd"
    prefix = "agentd_"
    model = NAME

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._options = options
        write_token(self._home.paths.token)
        token = self._home.paths.token.read_text().strip()
        self.headers = {"Authorization": f"Bearer {token}"}

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(256)
            self.port = listening.getsockname()[1]
            fd = listening.fileno()
            command = [sys.executable, "-m", "agentd.model_server", "--model", str(self.folder)]
            command += ["--name", NAME, "--fd", str(fd), *self._options]
            return self._popen(command, pass_fds=(fd,))


class Stock(Server):
    """mlx_lm.server with its defaults; see `tests.bench.stock`."""

    label = "stock"
    title = "stock mlx_lm.server"
    about = (
        f"stock is mlx_lm.server {version('mlx-lm')} with its defaults (decoding 32 and prefilling "
        "8 at a time in steps of 2,048 tokens, 10 caches)"
    )
    prefix = "stock_"
    model = "default_model"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        self.port = free_port()
        command = [sys.executable, "-m", "tests.bench.stock", "--model", str(self.folder)]
        return self._popen([*command, "--port", str(self.port), "--log-level", "WARNING"])


def _hello() -> dict[str, Any]:
    messages = [{"role": "user", "content": "Say a few words."}]
    return {"messages": messages, "max_tokens": 4, "temperature": 0}
