"""Where everything lives. `AGENTD_HOME` moves all of it, for tests and second instances."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import ConfigError, StorageError

HOME_VARIABLE = "AGENTD_HOME"
FOLDER_HINT = f"make it writable, or set {HOME_VARIABLE} to a folder that is"
ABSOLUTE_HINT = "write an absolute path, or one below ~/"
HOME_HINT = f"set {HOME_VARIABLE} to a folder's absolute path"
SOCKET_PATH_MAX = 104  # bytes of sun_path on macOS, its closing NUL included; Linux has 108
LONGEST_SOCKET_NAME = 60  # "w/" + an agent's name (48 at most) + ".sock", with some room
DATABASE = "db/agentd.db"  # below `data`


@dataclass(frozen=True)
class Paths:
    """One instance's folders. Nothing is created until `create`."""

    user: Path  # what a person writes: config/, agents/, baml_src/
    data: Path  # what agentd writes and must keep: the database, models, accepted versions
    logs: Path
    run: Path  # locks, the token and the model server's address; private
    sockets: Path  # a folder with a name short enough for a socket's path; private

    @property
    def config(self) -> Path:
        """Folder of agentd.toml and agents.d/."""
        return self.user / "config"

    @property
    def daemon_file(self) -> Path:
        """The daemon's own configuration file."""
        return self.config / "agentd.toml"

    @property
    def agents_d(self) -> Path:
        """Folder of one TOML file per agent."""
        return self.config / "agents.d"

    @property
    def secrets(self) -> Path:
        """Folder of one private file per secret that configuration names."""
        return self.config / "secrets"

    @property
    def agents(self) -> Path:
        """Folder of the user's own agent modules."""
        return self.user / "agents"

    @property
    def baml_src(self) -> Path:
        """Folder of the user's own .baml files."""
        return self.user / "baml_src"

    @property
    def database(self) -> Path:
        """The bus. It has a folder of its own, in which SQLite makes further files.

        One that is not there yet is where it always was: an older version's, until the daemon
        moves it, or what a person's own link leads to.
        """
        link = self.database_link
        moved = link.is_symlink() and os.readlink(link) == DATABASE  # noqa: PTH115 - its very text
        return link if os.path.lexists(link) and not moved else self.data / DATABASE

    @property
    def database_folder(self) -> Path:
        """The folder that the bus has for itself."""
        return (self.data / DATABASE).parent

    @property
    def database_room(self) -> Path:
        """The folder in which workers make and remove the database's files, without links.

        A link in there, in the place of one of them, is not followed: a worker may have put it.
        """
        link = self.database
        if link.parent != self.database_folder and link.is_symlink():
            link = link.parent / link.readlink()
        return Path(os.path.realpath(link.parent))

    @property
    def database_link(self) -> Path:
        """A link to the database, where it lay before it had a folder."""
        return self.data / "agentd.db"

    @property
    def models(self) -> Path:
        """Folder of downloaded and converted models."""
        return self.data / "models"

    @property
    def prompt_caches(self) -> Path:
        """What the model server computed for prompts, kept over a restart."""
        return self.data / "prompt-caches.safetensors"

    @property
    def versions(self) -> Path:
        """Folder of accepted agent versions: versions/NAME/HASH/."""
        return self.data / "versions"

    @property
    def accepted_daemon_file(self) -> Path:
        """A copy of the last agentd.toml that was right."""
        return self.data / "accepted-agentd.toml"

    @property
    def backups(self) -> Path:
        """Folder of the copies that `agentd backup` writes by itself."""
        return self.data / "backups"

    @property
    def scratch(self) -> Path:
        """Folder of one folder per agent for its tools' temporary files: emptied at each start."""
        return self.data / "tmp"

    def hands_scratch(self, name: str) -> Path:
        """Return the folder for the temporary files of one agent's hands.

        Beside its worker's, and not in there: an agent's own Python could put a link in its place,
        and hands may touch all that it leads to. No agent's name has a point.
        """
        return self.scratch / f"{name}.hands"

    @property
    def own_folders(self) -> Path:
        """Folder of one folder per agent, which it may read and write without a permission."""
        return self.data / "files"

    def log(self, name: str) -> Path:
        """Return the log file of one process, in a folder of its own."""
        return self.logs / name / f"{name}.jsonl"

    @property
    def mcp(self) -> Path:
        """What was accepted of MCP servers' tools, and a folder for each server."""
        return self.data / "mcp"

    @property
    def keys(self) -> Path:
        """Folder of keys that no worker and no tool may read, private."""
        return self.data / "keys"

    @property
    def token(self) -> Path:
        """The model server's bearer token, mode 0600."""
        return self.run / "model.token"

    @property
    def model_address(self) -> Path:
        """JSON with the model server's URL and model name, written by the supervisor."""
        return self.run / "model.json"

    @property
    def lock(self) -> Path:
        """The supervisor's lock file."""
        return self.run / "agentd.lock"

    @property
    def sockets_apart(self) -> bool:
        """Whether the sockets have a folder of their own, away from the home."""
        return os.path.realpath(self.sockets) != os.path.realpath(self.run)

    @property
    def status_socket(self) -> Path:
        """Stream socket on which the supervisor answers its state as JSON."""
        return self.sockets / "status.sock"

    @property
    def model_socket(self) -> Path:
        """Stream socket of the model server for this user's programs: HTTP without a token."""
        return self.sockets / "model.sock"

    @property
    def wake(self) -> Path:
        """Folder of one datagram socket per reader: w/NAME.sock."""
        return self.sockets / "w"

    @property
    def locks(self) -> Path:
        """Folder of one lock file per child process."""
        return self.run / "locks"

    def create(self) -> None:
        """Create the folders, private (0700) whatever the umask: an agent's file says what runs.

        A person's own that are there stay as open as they were made; `agentd doctor` looks at them.
        Sockets have none before the daemon makes it, which may lie elsewhere.

        Raises:
            StorageError: a folder cannot be created or written.
        """
        written = (self.config, self.agents_d, self.agents, self.baml_src)
        kept = (self.data, self.database_folder, self.models, self.versions, self.logs)
        private = (self.run, self.locks)
        self._create(*written, *kept, *private, private=private)

    def create_private(self) -> None:
        """Create the folders of locks and sockets: the daemon's, which somebody may remove.

        Raises:
            StorageError: a folder cannot be created or written.
        """
        private = (self.run, self.locks, self.sockets, self.wake)
        self._create(*private, private=private)

    def create_for(self, name: str) -> None:
        """Create the folders that one agent's process writes, which may make none itself.

        Raises:
            StorageError: a folder cannot be created or written.
        """
        self._create(self.log(name).parent, self.scratch / name, self.own_folders / name)

    def _create(self, *folders: Path, private: tuple[Path, ...] = ()) -> None:
        for folder in folders:
            try:
                private_folder(folder)
                if folder == self.sockets and not _is_ours(folder):
                    raise PermissionError(errno.EPERM, "somebody else's is there")
                if folder in private:
                    folder.chmod(0o700)
            except OSError as error:
                what = f"cannot create this folder: {error.strerror}"
                raise StorageError(what, where=str(folder), hint=FOLDER_HINT) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                what = "this folder is not writable"
                raise StorageError(what, where=str(folder), hint=FOLDER_HINT)


def discover(environ: "os._Environ[str] | dict[str, str]" = os.environ) -> Paths:
    """Return the paths that the environment asks for.

    With `AGENTD_HOME` everything lies under it. Else `platformdirs` decides: on macOS
    `~/Library/Application Support/agentd` and `~/Library/Logs/agentd`.

    Raises:
        ConfigError: `AGENTD_HOME`, or what stands for it, is no absolute path in UTF-8.
    """
    home = environ.get(HOME_VARIABLE)
    try:
        if home:
            where = f"{HOME_VARIABLE}={home}"
            root = _usable(expanded(home, where=_shown(where), hint=HOME_HINT), where)
            run = root / "run"
            return Paths(root, root, root / "logs", run, _short(run))
        import platformdirs  # small processes get their paths told

        dirs = platformdirs.PlatformDirs("agentd", appauthor=False)
        data, user, logs = (
            _usable(Path(folder), folder)
            for folder in (dirs.user_data_dir, dirs.user_config_dir, dirs.user_log_dir)
        )
        run = data / "run"
        return Paths(user, data, logs, run, _short(run, Path.home() / ".agentd"))
    except RuntimeError as error:  # pathlib's own word for a user without a home
        raise ConfigError("no such home folder", where="HOME", hint=HOME_HINT) from error


def expanded(path: Path | str, *, where: str = "", hint: str = ABSOLUTE_HINT) -> Path:
    """Return a person's path with the `~` or `~NAME` that it begins with replaced.

    Raises:
        ConfigError: there is no such user, for which pathlib raises a RuntimeError.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError("no such home folder", where=where or str(path), hint=hint) from error


def _usable(path: Path, where: str) -> Path:
    if not path.is_absolute():
        raise ConfigError("must be an absolute path", where=_shown(where), hint=HOME_HINT)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # no configuration, log or database could name it
        raise ConfigError("is not UTF-8", where=_shown(where), hint=HOME_HINT) from error
    return path


def _shown(where: str) -> str:
    return where.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def private_folder(folder: Path) -> None:
    """Create a folder, and all that is missing above it, for this user alone (0700).

    `mkdir(parents=True)` leaves those above it to the umask, and who may write there may put
    another folder in its place.

    Raises:
        OSError: it cannot be created.
    """
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def longest_socket(folder: Path) -> int:
    """Return the length, in bytes, that a socket's path can have in this folder."""
    return len(os.fsencode(folder)) + LONGEST_SOCKET_NAME


def _short(run: Path, *others: Path) -> Path:
    """Return `run`, or the first other folder in which a socket's path fits.

    The same one however `run` is spelt (links, `..`): daemon and commands must meet there.
    It never does under macOS's `~/Library/Application Support`. Only sockets lie elsewhere: a lock
    in a folder for temporary files would be gone after three days (`dirhelper`, `tmp_cleaner`).
    """
    real = Path(os.path.realpath(run))
    if not _fits(real):
        return next(filter(_fits, others), _temporary(real))
    return run if _fits(run) else real


def _fits(folder: Path) -> bool:
    return longest_socket(folder) < SOCKET_PATH_MAX


def _temporary(run: Path) -> Path:
    # Not $TMPDIR: it is long on macOS, and may differ between a terminal and launchd.
    import hashlib

    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:12]
    return Path("/tmp") / f"agentd-{os.getuid()}-{digest}"


def _is_ours(folder: Path) -> bool:
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def shipped() -> Path:
    """Return the folder that holds the shipped agents/, baml_src/, config/ and launchd/."""
    package = Path(__file__).parent
    inside = package / "_shipped"
    return inside if inside.is_dir() else package.parent
