"""Names of states, priorities and exit codes. A leaf: imports nothing of ours."""

from enum import IntEnum, StrEnum


class WorkerState(StrEnum):
    """What the supervisor knows of one child process; while it stops, the state before that."""

    STARTING = "STARTING"  # spawned, no heartbeat yet
    RUNNING = "RUNNING"  # beats arrive in time
    BACKOFF = "BACKOFF"  # died; waits before the next start
    PARKED = "PARKED"  # gave up (crash loop or bad configuration); says why
    PAUSED = "PAUSED"  # stopped on a person's request
    STOPPED = "STOPPED"  # not wanted (disabled, removed), or the daemon does not run
    WAITING = "WAITING"  # its file is there, but not yet all it needs (module, .baml, model)
    INVALID = "INVALID"  # its file is wrong and no earlier good version exists


class SessionState(StrEnum):
    """Where a session rests. Only `RUNNING` is not a resting state."""

    RUNNING = "running"  # in progress, or cut off in the middle when no process holds it
    ENDED = "ended"  # the loop came to Done
    FAILED = "failed"  # raised; may be tried again as a new session
    PARKED = "parked"  # waits for a person's answer


class Priority(StrEnum):
    """Class of an event, and of its session's calls at the model server."""

    PERSON = "person"
    EVENT = "event"
    SCHEDULE = "schedule"


class DeadReason(StrEnum):
    """Why an event was given up. Dead letters are listed, retried and dropped by command."""

    LOOP = "loop"  # depth above the limit
    FAILED = "failed"  # every attempt raised
    CRASHED = "crashed"  # its worker died each time before a step was recorded
    PARTIAL_EFFECTS = "partial effects"  # failed after a tool that must not run twice
    INVALID = "invalid"  # the payload does not fit what the agent accepts
    EXPIRED = "expired"  # retention reached it before its consumer did
    UNANSWERED = "unanswered"  # nobody answered its session's question in time


class Exit(IntEnum):
    """Exit codes. 0 to 3 are the commands'; 75 and 78 are sysexits(3), between our processes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    TEMPORARY = 75  # EX_TEMPFAIL: try again later
    CONFIG = 78  # EX_CONFIG: trying again is useless until a person changes something
