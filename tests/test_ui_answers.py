"""What a page's process that was taken over can do to the supervisor that answers it."""

import asyncio
import random
import socket
from pathlib import Path
from typing import Any, cast

from agentd.clock import SystemClock
from agentd.config.daemon import DaemonConfig
from agentd.logs.logger import Logger
from agentd.paths import discover
from agentd.process.channel import Channel, close_all
from agentd.process.child import Child
from agentd.process.jobs import Jobs, in_thread
from agentd.replay.loaded import Quiet
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Reaper
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.restart import Life, Rules
from agentd.supervisor.ui_host import ANSWERS_MAX, UiHost

LONG = {"agents": "x" * 1_000_000}  # more than a socket takes unread


def test_answers_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    """Each takes a descriptor, without which the daemon could start nothing and answer nobody."""

    async def tried() -> None:
        paths, clock, log = discover({"AGENTD_HOME": str(tmp_path)}), SystemClock(), Quiet()
        jobs = Jobs(cast(Logger, log), lambda error: None)
        config = DaemonConfig()
        parts = HostParts(
            paths, lambda: config, Commands(), Reaper(clock), jobs, cast(Logger, log), clock
        )

        async def status(_: bool) -> dict[str, Any]:
            return LONG

        life = Life(Rules.of(config.supervisor), clock, random.Random())
        host = UiHost(parts, cast(Any, None), status, life)
        theirs, ours = socket.socketpair()
        child = Channel(theirs)
        hearing = host._hear(cast(Child, type("Taken", (), {"control": ours, "pid": 1})))
        held: list[int] = []

        def ask() -> dict[str, Any]:
            child.send({"ask": "status", "id": 1}, deadline_s=20)
            answer, fds = child.receive(20)
            held.extend(fds)
            return answer

        for _ in range(ANSWERS_MAX):
            assert (await in_thread(ask))["ok"]
        assert "too much" in (await in_thread(ask))["error"]["what"]
        close_all(held)
        async with asyncio.timeout(20):
            while "error" in await in_thread(ask):
                await asyncio.sleep(0)
        hearing.end()
        child.close()
        close_all(held[ANSWERS_MAX:])
        await jobs.end()

    asyncio.run(tried())
