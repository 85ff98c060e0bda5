"""The bearer token, as its file has it now."""

from pathlib import Path

from agentd.errors import AgentdError, ConfigError, StorageError


class TokenFile:
    """Returns the token when it is called; a file that changed is read again at once.

    While it is away, or cannot be used, what it held before is in force: the supervisor writes it
    again. What is raised is of the first reading.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is empty, or others may read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._state()
        self._token = self._read()

    def __call__(self) -> str:
        """Return the token in force."""
        seen = self._state()
        if seen != self._seen:
            try:
                self._token = self._read()
            except AgentdError:
                return self._token  # and the next call looks again
            self._seen = seen
        return self._token

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_mode, found.st_size

    def _read(self) -> str:
        try:
            mode = self._path.stat().st_mode
            token = self._path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot be read: {error}", where=str(self._path)) from error
        if mode & 0o077:
            hint = f"chmod 600 {self._path}"
            raise ConfigError("others may read this token", where=str(self._path), hint=hint)
        if not token:
            raise ConfigError("is empty", where=str(self._path), hint="write a token into it")
        return token
