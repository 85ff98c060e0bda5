"""kill -9 on the model server, under the real supervisor: how long until a call is answered."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench.home import ROOT, Home
from tests.bench.table import Figure

from . import client
from .bench import Bench, NoAnswer

DEADLINE_S = 90.0  # of each start
RETRY_S = 0.02
STOP_S = 20.0


class _Found:
    """The supervised server, as a worker finds it: through the address file and the token."""

    def __init__(self, home: Home) -> None:
        address = json.loads(home.paths.model_address.read_text())
        token = home.paths.token.read_text().strip()
        self.port = urlsplit(address["url"]).port or 0
        self.model: str = address["model"]
        self.pid: int | None = address["pid"]
        self.headers: Mapping[str, str] = {"Authorization": f"Bearer {token}"}


async def measure(bench: Bench) -> AsyncIterator[Figure]:
    """Yield the seconds from the kill to the next answer. After the servers have ended."""
    seconds = await _killed(bench.folder)
    against = f"the start of {bench.other.title}, as if somebody did it at once"
    note = "the supervisor's first wait of about 1 s included"
    yield Figure(
        "kill -9 to the next answer", seconds, "s", bench.other.start_s, against, note=note
    )


async def _killed(folder: Path) -> float:
    home = Home()
    home.paths.daemon_file.write_text(f"[model]\nname = {json.dumps(str(folder))}\n")
    output = home.root / "output.txt"
    with output.open("wb") as sink:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "agentd", "run"],
            env=home.environment,
            cwd=ROOT,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        pid = await _answered(home, daemon)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        again = await _answered(home, daemon, after=pid)
        assert again != pid
        return time.monotonic() - began
    except TimeoutError as error:
        said = output.read_text("utf-8", "replace").splitlines()[-5:]
        raise NoAnswer(f"recovery: within {DEADLINE_S:g} s; {said}") from error
    finally:
        daemon.terminate()
        try:
            daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        home.close()


async def _answered(home: Home, daemon: "subprocess.Popen[bytes]", after: int | None = None) -> int:
    """Ask until a server other than `after` answers; return its pid."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Are you there?"}],
        "max_tokens": 1,
        "temperature": 0,
    }
    async with asyncio.timeout(DEADLINE_S):
        while daemon.poll() is None:
            try:
                found = _Found(home)
            except (OSError, ValueError):  # not written yet
                found = None
            if found and found.pid and found.pid != after:
                answer = await client.chat(found, body, deadline_s=DEADLINE_S)
                if answer.answered:
                    return found.pid
            await asyncio.sleep(RETRY_S)
    raise NoAnswer("recovery: `agentd run` ended")
