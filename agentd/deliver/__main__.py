"""`python -m agentd.deliver`: started by the supervisor, with a control socket."""

import os
import sys

from agentd.bus.wake import Bell
from agentd.config.last_good import effective_config
from agentd.deliver.confined import deliver_policy
from agentd.deliver.deliver import Deliver
from agentd.errors import AgentdError, SandboxUnavailable
from agentd.events import DELIVER
from agentd.logs import logger as logs
from agentd.logs.logger import Logger
from agentd.paths import discover
from agentd.process.child import child_side
from agentd.process.failure import end_with_threads
from agentd.process.heart import STOPPING, Heart
from agentd.process.supervisor_link import SupervisorLink
from agentd.sandbox.enter import enter
from agentd.states import Exit

ENDS_S = 5.0  # from its last beat


class Start:
    """What is done while there is one thread: the log is opened, the sandbox entered.

    `error` is what went wrong, raised once there is a heart to tell it by.
    """

    error: Exception | None = None
    log: Logger | None = None

    def __call__(self) -> None:
        """Do it."""
        try:
            self.paths = paths = discover()
            self.config = config = effective_config(paths)
            self.log = logs.configure(DELIVER, paths, config.logs)
            self.log.info("deliver.started", pid=os.getpid(), ways=config.deliver.ways)
            Bell(paths.wake)  # by a socket that cannot be made in there
            os.umask(0)  # in there no mode can be changed: a file gets its mode as it is made
            enter(deliver_policy(config.deliver, paths), require=config.sandbox.required)
        except Exception as error:
            self.error = error


def main() -> int:
    """Deliver until the supervisor stops it; returns the exit code."""
    link = SupervisorLink.of_environment()
    start = Start()
    heart = child_side(before_threads=start)
    log = start.log or logs.get_logger()
    try:
        if start.error is not None:
            raise start.error
        end_with_threads(lambda error: _raised(error, heart, log))
        Deliver(start.paths, start.config, heart, link, log).run()
        heart.beat(ENDS_S, STOPPING)
        return Exit.OK
    except AgentdError as error:
        heart.problem(error)
        log.error("deliver.ended", error=str(error), exit=int(error.exit_code))
        lasting = error.exit_code == Exit.CONFIG or isinstance(error, SandboxUnavailable)
        return Exit.CONFIG if lasting else Exit.TEMPORARY
    except Exception as error:  # the top of the process: its traceback belongs in the log
        _raised(error, heart, log)
        return Exit.FAILED
    finally:
        logs.close()


def _raised(error: BaseException, heart: Heart, log: Logger) -> None:
    heart.problem(AgentdError(f"{type(error).__name__}: {error}"))
    log.error("deliver.raised", exc_info=error)


if __name__ == "__main__":
    sys.exit(main())
