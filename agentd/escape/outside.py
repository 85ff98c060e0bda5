"""What the attempts are after: files, sockets, a process, put up for them in a private folder."""

import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentd.sandbox.policy import SandboxPolicy

SECRET = "what nobody in a sandbox reads"
ATTRIBUTE = "user.agentd"
# agentd's own files that may be there.
OURS = (
    *("the database", "a copy of the database", "the model's token", "a secret"),
    *("the key of a person's answers", "an agent's file", "an accepted version", "a log"),
)
UNLISTED = ("true", "id", "env", "uname")  # programs that every system has
SHARED_BYTES = 4096


@dataclass(frozen=True)
class Outside:
    """Names of it all. `own` is a folder of the sandbox itself; the others are outside.

    `places`: those of `OURS` that there are, agentd's socket ("socket"), and host and port of the
    model server ("model").
    """

    own: str
    folder: str
    secret: str  # a file, with an attribute
    spare: str  # another one, to be lost
    program: str  # a copy of one, that no policy lists
    unlisted: str  # one of the system's, that this policy does not list
    pid: int  # a process of this user, which leads its group
    address: int  # of its memory, 0 where that is not told
    port: int
    datagram_port: int
    other_host: tuple[str, int]  # of a port that the policy lists, on an address that is not meant
    stream: str
    datagram: str
    abstract: str
    shared_memory: int  # its id, -1 where there is none
    places: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Outside":
        """Return it from a document."""
        return replace(cls(**document), other_host=tuple(document["other_host"]))


class Watched:
    """What was put up, and whether anything reached it."""

    def __init__(self, outside: Outside, sockets: Sequence[socket.socket], pid: Any) -> None:
        self.outside = outside
        self._sockets, self._process = sockets, pid
        self._before = self._look()

    def changed(self) -> list[str]:
        """Return what is no longer as it was, in words; [] where nothing was reached."""
        now = self._look()
        found = [
            path for path in now.keys() | self._before if now.get(path) != self._before.get(path)
        ]
        if self._process.poll() is not None:
            found.append("the process has ended")
        for listening in self._sockets:
            with suppress(BlockingIOError):
                if listening.type == socket.SOCK_DGRAM:
                    listening.recv(100)
                else:
                    listening.accept()[0].close()
                found.append(f"something arrived at {listening.getsockname()!r}")
        return sorted(found)

    def _look(self) -> dict[str, Any]:
        """Return all that can be told of the files, but for when they were read."""
        found = {}
        for path in (Path(self.outside.folder), *Path(self.outside.folder).rglob("*")):
            status = path.lstat()
            text = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime)
            found[str(path)] = (*facts, text, _attribute(path))
        return found


def _attribute(path: Path) -> bytes:
    with suppress(OSError):
        if sys.platform == "linux":
            return os.getxattr(path, ATTRIBUTE, follow_symlinks=False)
    return b""


@contextmanager
def put_up(
    folder: Path, own: Path, places: Mapping[str, str], policy: SandboxPolicy
) -> Iterator[Watched]:
    """Put it up in `folder`, which the policy must not open, and take it down at the end.

    `own`: a folder that the sandbox may read and write.
    """
    with ExitStack() as stack:
        secret, spare = folder / "secret", folder / "spare"
        for path in (secret, spare, folder / "removed"):
            path.write_text(SECRET)
            with suppress(OSError):
                if sys.platform == "linux":
                    os.setxattr(path, ATTRIBUTE, b"note")
        unlisted = _unlisted(policy)
        program = shutil.copy(unlisted, folder / "program")
        tcp = _bound(stack, socket.AF_INET, socket.SOCK_STREAM)
        udp = _bound(stack, socket.AF_INET, socket.SOCK_DGRAM)
        # A socket's path must be short.
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentd-", dir="/tmp"))
        stream = _bound(stack, socket.AF_UNIX, socket.SOCK_STREAM, f"{short}/s")
        datagram = _bound(stack, socket.AF_UNIX, socket.SOCK_DGRAM, f"{short}/d")
        sockets = [tcp, udp, stream, datagram]
        abstract = ""
        if sys.platform == "linux":
            abstract = f"\0agentd-{secrets.token_hex(8)}"
            sockets.append(_bound(stack, socket.AF_UNIX, socket.SOCK_STREAM, abstract))
        other = ("", 0)
        with suppress(OSError, IndexError):  # no port is listed; or macOS has one such address
            other = ("127.0.0.2", policy.ports[0])
            sockets.append(_bound(stack, socket.AF_INET, socket.SOCK_STREAM, other))
        process = stack.enter_context(
            subprocess.Popen(
                [shutil.which("sleep") or "/bin/sleep", "600"],
                stdin=subprocess.DEVNULL,
                env={"SECRET": SECRET},
                start_new_session=True,
            )
        )
        stack.callback(process.kill)
        outside = Outside(
            own=str(own),
            folder=str(folder),
            secret=str(secret),
            spare=str(spare),
            program=str(program),
            unlisted=unlisted,
            pid=process.pid,
            address=_address(process.pid),
            port=tcp.getsockname()[1],
            datagram_port=udp.getsockname()[1],
            other_host=other,
            stream=f"{short}/s",
            datagram=f"{short}/d",
            abstract=abstract,
            shared_memory=_shared_memory(stack),
            places=dict(places),
        )
        yield Watched(outside, sockets, process)


def _bound(
    stack: ExitStack, family: int, kind: int, address: Any = ("127.0.0.1", 0)
) -> socket.socket:
    made = stack.enter_context(socket.socket(family, kind))
    made.bind(address)
    if kind == socket.SOCK_STREAM:
        made.listen()
    made.setblocking(False)
    return made


def _unlisted(policy: SandboxPolicy) -> str:
    listed = {os.path.realpath(path) for path in policy.run}
    found = (shutil.which(name, path=os.defpath) for name in UNLISTED)
    return next(path for path in found if path and os.path.realpath(path) not in listed)


def _address(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/maps").read_text().partition("-")[0], 16)
    return 0


def _shared_memory(stack: ExitStack) -> int:
    """Make a segment of System V's shared memory; return its id."""
    private, create, remove = 0, 0o1600, 0
    libc = ctypes.CDLL(None)
    found = int(libc.shmget(private, ctypes.c_size_t(SHARED_BYTES), create))
    if found >= 0:
        stack.callback(libc.shmctl, found, remove, None)
    return found
