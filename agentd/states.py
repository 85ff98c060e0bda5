"""Names of states, priorities and exit codes. A leaf: imports nothing of ours."""

from enum import IntEnum, StrEnum


class WorkerState(StrEnum):
    """What the supervisor knows of one child process, with its `meaning` for people.

    While it stops, the state before that.
    """

    STARTING = "STARTING", "its process was started and has not answered yet"
    RUNNING = "RUNNING", "it works, or waits for work"
    BACKOFF = "BACKOFF", "it died, and waits before the next start"
    PARKED = (
        "PARKED",
        "gave up or rests, and says why: a crash loop, a wrong configuration, or all events fail",
    )
    PAUSED = "PAUSED", "stopped by `agentd pause NAME`"
    STOPPED = "STOPPED", "not wanted (disabled, removed), or the daemon does not run"
    WAITING = "WAITING", "a module, prompt or model is not there yet"
    INVALID = "INVALID", "its file is wrong, and there is no earlier version that was right"

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "WorkerState":
        """Make a state that is its value, as text."""
        state = str.__new__(cls, value)
        state._value_ = value
        state.meaning = meaning
        return state


class SessionState(StrEnum):
    """How far a session is. All but `RUNNING` are at rest."""

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
    # Its worker crashed over it 5 times in a row without recording a step, or 20 times in all.
    CRASHED = "crashed"
    PARTIAL_EFFECTS = "partial effects"  # failed after a tool that must not run twice
    # It makes no sense to its reader: unreadable, a wrong payload, an answer to no question.
    INVALID = "invalid"
    EXPIRED = "expired"  # retention reached it before its consumer did
    UNANSWERED = "unanswered"  # nobody answered its session's question in time


# How a label was taken: without the model's own bias, also by what an external server tells of it;
# as the model prefers it; and in an answer that was cut, which nobody chose.
OFFSETS, LOGPROBS, GREEDY, CLOSED = "offsets", "logprobs", "greedy", "closed"
LABELS_MIN, LABELS_MAX = 2, 50  # of one field; the model server takes no others


class Exit(IntEnum):
    """Exit codes. 0 to 3 are the commands'; 75 and 78 are sysexits(3), between our processes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    TEMPORARY = 75  # EX_TEMPFAIL: try again later
    CONFIG = 78  # EX_CONFIG: trying again is useless until a person changes something
