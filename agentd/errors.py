"""Every error that agentd raises on purpose: what happened, where, and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentd.states import Exit

TEXT_MAX = 20_000  # characters of each text of an error's document

Problem = dict[str, str]  # an error's document: what, where, hint


class AgentdError(Exception):
    """Base of all our errors.

    `where` names the place (file, key, line, event id); `hint` the next step. `exit_code` is what
    a command that meets it exits with.
    """

    exit_code: Exit = Exit.FAILED

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        # Their text goes into JSON, the database and terminals: a path in it may be no UTF-8.
        self.what, self.where, self.hint = shown(what), shown(where), shown(hint)
        super().__init__(self.what)

    def document(self) -> Problem:
        """Return what happened, where, and what to do, without secrets: for files and `status`."""
        from agentd.secret_rules import hide  # 14 ms, which small processes do without

        text = {"what": self.what, "where": self.where, "hint": self.hint}
        return {key: hide(value[:TEXT_MAX]) for key, value in text.items()}

    def lines(self) -> list[str]:
        """Return what people read, a line each; one that holds a line break is still one line."""
        place = f"{self.where}: " if self.where else ""
        hint = [f"  hint: {self.hint}"] if self.hint else []
        return [f"{place}{self.what}", *hint]

    def __str__(self) -> str:
        return "\n".join(self.lines())


class ConfigError(AgentdError):
    """A configuration, agent module or .baml file that cannot be used as it is."""

    exit_code = Exit.CONFIG


class BrokenVersion(ConfigError):
    """An accepted agent's folder is incomplete or was changed: it must be built again."""


class UsageError(AgentdError):
    """A command called with arguments that make no sense."""

    exit_code = Exit.USAGE


class NotRunning(AgentdError):
    """The command needs a running supervisor and there is none."""

    exit_code = Exit.NOT_RUNNING


class AlreadyRunning(AgentdError):
    """Another supervisor holds this home."""


class StorageError(AgentdError):
    """The database or a folder cannot be used: unwritable, full, corrupt, from a newer version."""

    exit_code = Exit.TEMPORARY


class RowRefused(StorageError):
    """A rule of the tables refuses what was to be written: ours, or one that somebody added."""


class DamagedDatabase(StorageError):
    """The database holds bytes that make no sense, or is none. Only a repair or a backup helps."""

    exit_code = Exit.CONFIG


class NewerDatabase(StorageError):
    """The database was written by a newer agentd; running on would damage it."""

    exit_code = Exit.CONFIG


class EventRefused(AgentdError):
    """An event that may not be published: bad type, bad payload, a system type from an agent."""


class LostLane(AgentdError):
    """The lane's cursor moved under us: another worker of this name is alive. Give up the work."""

    exit_code = Exit.TEMPORARY


class ModelUnavailable(AgentdError):
    """The model server is down or still loading. Costs no attempt: wait and try again."""

    exit_code = Exit.TEMPORARY


class ModelMisconfigured(ModelUnavailable):
    """An external server that only a change of [model] or of itself can help: a wrong key or URL.

    Costs no attempt; the agent rests, with this as its reason.
    """


class PromptTooLong(AgentdError):
    """An agent's instructions and tools alone take all that a prompt may: no event is to blame.

    Costs no attempt; the agent rests, with this as its reason.
    """


class ModelError(AgentdError):
    """The model server answered with something unusable (4xx, malformed answer after a re-ask)."""


class CallDeadline(ModelError):
    """A call to the model took longer than its deadline, counted from its admission."""


class SandboxUnavailable(AgentdError):
    """This system cannot put a process into the sandbox that it was to have."""


class RecordingError(AgentdError):
    """A recording that cannot be read, written or replayed here."""


class ToolError(AgentdError):
    """A tool refused or failed in an expected way. The model is told; the session goes on."""


class PermissionRefused(ToolError):
    """The agent's [permissions] do not list what the tool wanted."""


class SessionFailed(AgentdError):
    """The session cannot go on.

    A decision or event that was not allowed or declared, a prompt over its budget, or a step, fact
    or record that cannot be written or read.
    """


class Stopped(AgentdError):
    """An orderly stop interrupts a wait. The session is cut and resumes later."""


@contextmanager
def storage_errors(where: Path, hint: str = "", what: str = "cannot be written") -> Iterator[None]:
    """Turn the system's refusal inside into a StorageError that says which file, and what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror}", where=str(where), hint=hint) from error


def shown(name: str) -> str:
    r"""Return a file name as clean text: bytes that are not UTF-8 become `\xNN`."""
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which is no file's
        data = name.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")
