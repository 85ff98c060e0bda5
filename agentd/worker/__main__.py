"""`python -m agentd.worker NAME --version HASH`: one agent's process.

Started by the supervisor. `first_imports` comes first: it works only in a fresh process.
"""

import os
import sys

import agentd.worker.first_imports  # noqa: F401

# isort: split
from agentd.admission.version import read_version
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, SandboxUnavailable, Stopped
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
from agentd.worker.head import enter_head
from agentd.worker.worker import BUSY_GRACE_S, Worker


class Preparation:
    """What a worker reads while it has one thread, and then its sandbox, where it is supervised.

    `error` is what went wrong, raised once there is a heart to tell it by.
    """

    def __init__(self, name: str, version: str, link: SupervisorLink, *, forked: bool) -> None:
        self._name, self._version, self._link, self._forked = name, version, link, forked
        self.error: Exception | None = None
        self.log: Logger | None = None

    def __call__(self) -> None:
        """Prepare the process."""
        try:
            self.paths = paths = discover()
            self.daemon = daemon = effective_config(paths)
            self.log = logs.configure(self._name, paths, daemon.logs)
            self.accepted = read_version(paths.versions / self._name / self._version)
            self.log.info("worker.started", version=self.accepted.hash, pid=os.getpid())
            if self._link.there:
                required = daemon.sandbox.required
                enter_head(self.accepted, paths, require=required, forked=self._forked)
        except Exception as error:
            self.error = error


def main(argv: list[str] | None = None, *, forked: bool = False) -> int:
    """Run one agent's worker; returns the exit code (see `agentd.states.Exit`).

    `forked`: by `worker/forks.py`, so it is in no sandbox yet on any system.
    """
    match sys.argv[1:] if argv is None else argv:
        case [name, "--version", version]:
            pass
        case _:
            say("usage: python -m agentd.worker NAME --version HASH", file=sys.stderr)
            return Exit.USAGE
    link = SupervisorLink.of_environment()
    ready = Preparation(name, version, link, forked=forked)
    heart = child_side(before_threads=ready)
    log = ready.log
    try:
        if ready.error is not None:
            raise ready.error
        assert log is not None
        logger = log
        end_with_threads(lambda error: _raised(error, heart, logger))
        worker = Worker(
            ready.accepted,
            ready.paths,
            ready.daemon,
            heart,
            log,
            crashed=crash.of_the_one_before(),
            link=link,
        )
        worker.scratch = ready.paths.scratch / name
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
        # No later start helps without a sandbox, either: the agent is parked with the reason.
        lasting = error.exit_code == Exit.CONFIG or isinstance(error, SandboxUnavailable)
        return Exit.CONFIG if lasting else Exit.TEMPORARY
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
