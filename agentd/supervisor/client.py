"""Asks a running supervisor for its state: one JSON document from its status socket.

Imports little: `agentd status` is to answer within 0.3 s.
"""

import json
import socket
from typing import Any

from agentd.errors import AgentdError, NotRunning, StorageError
from agentd.paths import Paths
from agentd.process.lock import LockFile

ANSWER_S = 5.0  # a supervisor that does not answer for so long is stopped or broken
READ_BYTES = 65_536
USE = b"use"  # asks also for what the processes take


def query(paths: Paths, *, use: bool = False) -> dict[str, Any]:
    """Return the supervisor's state: pid, since, version, home, model, agents, events.

    `use`: also what its processes take, see `process_use`. To measure that costs more than all else
    of the answer.

    Raises:
        NotRunning: no supervisor answers in this home; says why the last one gave up, if it did.
        StorageError: one is there and did not answer within `ANSWER_S` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_S)
        try:
            client.connect(str(paths.status_socket))
            client.sendall(USE if use else b"")
            client.shutdown(socket.SHUT_WR)
            answer = bytearray()
            while data := client.recv(READ_BYTES):
                answer += data
        except TimeoutError as error:
            raise StorageError(
                f"the supervisor did not answer within {ANSWER_S:g} s",
                where=str(paths.status_socket),
                hint="it may be stopped (SIGSTOP) or overloaded; see `agentd logs agentd`",
            ) from error
        except OSError as error:
            raise not_running(paths) from error
    try:
        document: dict[str, Any] = json.loads(answer)
    except ValueError as error:  # it was stopped while it answered
        raise not_running(paths) from error
    return document


def not_running(paths: Paths) -> NotRunning:
    """Return the error for a home in which none answers, with the last one's reason, if any."""
    if (pid := unreachable(paths)) is not None:
        return NotRunning(
            f"agentd runs, pid {pid}, and does not answer",
            where=str(paths.status_socket),
            hint="it starts or stops just now, or makes a removed socket again: try in a moment",
        )
    hint = "start it with `agentd run`"
    if (failure := last_failure(paths)) is not None:
        reason = AgentdError(failure["what"], where=failure["where"], hint=failure["hint"])
        hint += f"; the last run failed: {reason}"
    return NotRunning("agentd is not running", where=str(paths.user), hint=hint)


def unreachable(paths: Paths) -> int | None:
    """Return the pid of the supervisor that holds this home, where none answers; None: no such."""
    lock = LockFile(paths.lock)
    pid = lock.holder().get("pid")
    return pid if isinstance(pid, int) and lock.held() else None


def last_failure(paths: Paths) -> dict[str, str] | None:
    """Return why the last run gave up: what, where, hint; None where it did not."""
    try:
        found = json.loads((paths.run / "failed.json").read_bytes())
        return {key: str(found[key]) for key in ("what", "where", "hint")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
