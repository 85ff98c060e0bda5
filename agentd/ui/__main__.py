"""`python -m agentd.ui FD`: started by the supervisor; FD is the socket that listens."""

import asyncio
import os
import socket
import sys

from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, SandboxUnavailable
from agentd.logs import logger as logs
from agentd.logs.logger import Logger
from agentd.paths import discover
from agentd.process.child import child_side
from agentd.process.failure import end_with_threads
from agentd.process.heart import STOPPING, Heart
from agentd.process.supervisor_link import SupervisorLink
from agentd.sandbox.enter import enter
from agentd.states import Exit
from agentd.supervisor.ui_policy import NAME, ui_policy

ENDS_S = 5.0  # from its last beat


class UiStart:
    """What is done while there is one thread: the log is opened, the sandbox entered.

    `error` is what went wrong, raised once there is a heart to tell it by.
    """

    error: Exception | None = None
    log: Logger | None = None

    def __call__(self) -> None:
        """Do it."""
        try:
            self.paths = paths = discover()
            config = effective_config(paths)
            self.log = logs.configure(NAME, paths, config.logs)
            self.log.info("ui.started", pid=os.getpid())
            enter(ui_policy(paths), require=config.sandbox.required)
        except Exception as error:
            self.error = error


def main() -> int:
    """Serve until the supervisor stops it; returns the exit code."""
    link = SupervisorLink.of_environment()
    start = UiStart()
    heart = child_side(before_threads=start)
    log = start.log or logs.get_logger()
    try:
        if start.error is not None:
            raise start.error
        end_with_threads(lambda error: _raised(error, heart, log))
        from agentd.ui.page_server import PageServer  # 0.4 s

        asyncio.run(
            PageServer(start.paths, socket.socket(fileno=int(sys.argv[1])), link, heart).run()
        )
        heart.beat(ENDS_S, STOPPING)
        return Exit.OK
    except AgentdError as error:
        heart.problem(error)
        log.error("ui.ended", error=str(error), exit=int(error.exit_code))
        lasting = error.exit_code == Exit.CONFIG or isinstance(error, SandboxUnavailable)
        return Exit.CONFIG if lasting else Exit.TEMPORARY
    except Exception as error:  # the top of the process: its traceback belongs in the log
        _raised(error, heart, log)
        return Exit.FAILED
    finally:
        logs.close()


def _raised(error: BaseException, heart: Heart, log: Logger) -> None:
    heart.problem(AgentdError(f"{type(error).__name__}: {error}"))
    log.error("ui.raised", exc_info=error)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a thread may wait for the database yet, and nothing is to be saved
