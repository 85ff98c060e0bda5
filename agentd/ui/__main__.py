"""`python -m agentd.ui FD`: started by the supervisor; FD is the socket that listens."""

import asyncio
import os
import socket
import sys

from agentd.config.daemon import DaemonConfig
from agentd.paths import Paths
from agentd.process.confined_process import ConfinedProcess
from agentd.sandbox.enter import enter
from agentd.supervisor.ui_policy import NAME, ui_policy


def main() -> int:
    """Serve until the supervisor stops it; returns the exit code."""
    ours = ConfinedProcess(NAME, ("ui.started", "ui.ended", "ui.raised"))

    def confine(paths: Paths, config: DaemonConfig) -> None:
        enter(ui_policy(paths), require=config.sandbox.required)

    def serve() -> None:
        from agentd.ui.page_server import PageServer  # 0.4 s

        listening = socket.socket(fileno=int(sys.argv[1]))
        asyncio.run(PageServer(ours.paths, listening, ours.link, ours.heart).run())

    return ours.run(confine, serve)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a thread may wait for the database yet, and nothing is to be saved
