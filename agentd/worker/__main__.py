"""`python -m agentd.worker NAME --version HASH`: one agent's process.

Started by the supervisor. `first_imports` comes first: it works only in a fresh process.
"""

import os
import sys

import agentd.worker.first_imports  # noqa: F401

# isort: split
from agentd.admission.version import read_version
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, Stopped
from agentd.logs import logger as logs
from agentd.logs.logger import Logger
from agentd.paths import discover
from agentd.process import crash
from agentd.process.child import child_side
from agentd.process.failure import end_with_threads
from agentd.process.heart import STOPPING, Heart
from agentd.process.supervisor_link import SupervisorLink
from agentd.states import Exit
from agentd.terminal import note, say
from agentd.worker.worker import BUSY_GRACE_S, Worker


def main(argv: list[str] | None = None) -> int:
    """Run one agent's worker; returns the exit code (see `agentd.states.Exit`)."""
    heart = child_side()
    link = SupervisorLink.of_environment()
    crashed = crash.of_the_one_before()
    match sys.argv[1:] if argv is None else argv:
        case [name, "--version", version]:
            pass
        case _:
            say("usage: python -m agentd.worker NAME --version HASH", file=sys.stderr)
            return Exit.USAGE
    log: Logger | None = None
    try:
        paths = discover()
        daemon = effective_config(paths)
        log = logger = logs.configure(name, paths, daemon.logs)
        end_with_threads(lambda error: _raised(error, heart, logger))
        accepted = read_version(paths.versions / name / version)
        worker = Worker(accepted, paths, daemon, heart, log, crashed=crashed, link=link)
        worker.scratch = paths.scratch / name
        log.info("worker.started", version=accepted.hash, pid=os.getpid())
        worker.run()
        heart.beat(BUSY_GRACE_S, STOPPING)
        log.info("worker.stopped")
        return Exit.OK
    except Stopped:
        return Exit.OK
    except AgentdError as error:
        heart.problem(error)
        if log is None:
            note(*error.lines())
        else:
            log.error("worker.failed", error=str(error), exit=int(error.exit_code))
        return error.exit_code if error.exit_code == Exit.CONFIG else Exit.TEMPORARY
    except Exception as error:  # the top of the process: its traceback belongs in the log
        _raised(error, heart, log or logs.get_logger())
        return Exit.FAILED  # counts as a crash: a bug that stays is parked
    finally:
        logs.close()


def _raised(error: BaseException, heart: Heart, log: Logger) -> None:
    heart.problem(AgentdError(f"{type(error).__name__}: {error}"))
    log.error("worker.raised", exc_info=error)


if __name__ == "__main__":
    sys.exit(main())
