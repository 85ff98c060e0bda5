"""A child process that cannot outlive its supervisor, hang unnoticed, or run twice.

Three things pass from every parent to its child, as inherited file descriptors:

* the *lifeline*, a pipe that the parent never writes to. When the parent dies, however it dies, the
  child reads end-of-file and kills its own process group. Works on macOS, which has no prctl.
  `guardian` reads it, too, for a child that is stopped, or killed in the same moment.
* the *heart*, a pipe for the child's beats. A beat is a promise, one JSON line: the next one comes
  within `promise_s`. Through a pipe and not the database: a full disk must not look like a hang.
* the *lock*, a file locked (flock) by the parent before the child starts and held by the child
  until its last moment. A new supervisor that finds it held kills the recorded group first, also
  a stopped one, which reads no lifeline. So there are never two copies.

A fourth, the *control socket*, is for a child that may ask (supervisor_link.py) or is asked.

Of the tools' children only those of the same group die with a child: tools start no new sessions.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from agentd.clock import Clock, SystemClock
from agentd.errors import AgentdError
from agentd.process import environment, guardian
from agentd.process.heart import BEAT_BYTES_MAX, Heart
from agentd.process.started import Ends, Spawned, Started
from agentd.process.takeover import kill_group, take_over

LIFELINE_VARIABLE = "AGENTD_LIFELINE_FD"
HEART_VARIABLE = "AGENTD_HEART_FD"
LOCK_VARIABLE = "AGENTD_LOCK_FD"
CONTROL_VARIABLE = "AGENTD_CONTROL_FD"
VARIABLES = (LIFELINE_VARIABLE, HEART_VARIABLE, LOCK_VARIABLE, CONTROL_VARIABLE)

READ_BYTES = 65_536
PAIR_BYTES = 200_000  # that a control socket holds for its child


# --- the child's side ----------------------------------------------------------------------------


def child_side(
    environ: "os._Environ[str]" = os.environ, before_threads: Callable[[], None] = lambda: None
) -> Heart:
    """Set up this process as a supervisor's child. Every child calls it first, once.

    Starts the thread that watches the lifeline, keeps every inherited descriptor from being
    inherited further, and removes their variables, so that tools' children know nothing of them.
    Without a supervisor (started by hand) it returns a Heart that does nothing.

    `before_threads` is called while there is one thread yet, and a guardian already: a sandbox
    holds for a thread and what that starts.
    """
    heart, lifeline = side_of_one_thread(environ)
    before_threads()
    if lifeline is not None:
        watch = threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True)
        watch.start()
    return heart


def side_of_one_thread(environ: "os._Environ[str]" = os.environ) -> tuple[Heart, int | None]:
    """Do as `child_side` without a thread: at the lifeline's end the caller calls `end_group`."""
    lifeline, heart, _lock = (inherited(environ, name) for name in VARIABLES[:3])
    if lifeline is not None:
        if os.getpgrp() != os.getpid():
            raise AgentdError("a child must lead its own process group", hint="start it by Child")
        _inherit_no_further()
        guardian.watch(lifeline)
    if heart is not None:
        os.set_blocking(heart, False)
    return Heart(heart), lifeline


def inherited(environ: "os._Environ[str]", name: str) -> int | None:
    """Return the descriptor that a variable names, None without one; our children do not see it."""
    number = environ.pop(name, None)
    return None if number is None else int(number)


def _inherit_no_further() -> None:
    """Keep what we inherited from our own children.

    A guardian once held the model server's socket for a moment after the server had died: callers
    were let in whom nobody would answer, and the next server found its port in use.
    """
    # On macOS a real folder, on Linux a link into /proc.
    for entry in os.listdir("/dev/fd"):  # noqa: PTH208 - paths would write to 300 KB
        with contextlib.suppress(OSError):  # the listing's own
            if int(entry) > 2:  # its output may be shared
                os.set_inheritable(int(entry), False)


def _watch(lifeline: int) -> None:
    # Python retries a read that a signal interrupts (PEP 475); nobody ever writes.
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    end_group()


def end_group() -> NoReturn:
    """Kill this process with its whole group, at once."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)  # never reached


# --- the parent's side ---------------------------------------------------------------------------


@dataclass
class Child:
    """A running child process, seen from its supervisor. No thread, no event loop: descriptors.

    `heart_fd` and `output_fd` (stdout and stderr together) are non-blocking read ends for the
    caller's own loop. After `poll` returned a code, drain them and `close`.
    """

    name: str
    pid: int  # also its process group and session
    started: float  # clock.monotonic()
    heart_fd: int
    output_fd: int
    took_over: int | None  # an earlier copy that had to be killed first
    _process: Started
    _lifeline: int
    control: "socket.socket | None" = None  # our end of its control socket
    _buffer: bytearray = field(default_factory=bytearray)

    @classmethod
    def spawn(
        cls,
        name: str,
        argv: Sequence[str],
        locks: Path,
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        control: bool = False,
        stdio: tuple[int, int] | None = None,
        clock: Clock | None = None,
    ) -> "Child":
        """Start `argv` as the one child called `name`, in its own session; `env`: see environment.

        `control`: with a control socket. `stdio`: its standard input and output, in the place of an
        empty one and of the pipe that also has its errors.

        Raises:
            OSError: the program or the lock cannot be opened, or a limit is reached.
            AlreadyRunning: an earlier copy lives and cannot be killed.
        """
        import subprocess  # the parent's alone; a child imports this module as well

        def start(ends: Ends) -> Started:
            process = subprocess.Popen(
                argv,
                stdin=stdio[0] if stdio else subprocess.DEVNULL,
                stdout=stdio[1] if stdio else ends.output,
                stderr=ends.output,
                env={**(environment.for_child() if env is None else env), **ends.variables()},
                cwd=cwd,
                pass_fds=(*ends.numbers.values(), *pass_fds),
                start_new_session=True,
            )
            return Spawned(process)

        return cls.begin(name, locks, start, control=control, clock=clock)

    @classmethod
    def begin(
        cls,
        name: str,
        locks: Path,
        start: Callable[[Ends], Started],
        *,
        control: bool = False,
        clock: Clock | None = None,
    ) -> "Child":
        """Take the lock of `name`, make the pipes, and call `start` for a process that has them.

        Raises:
            OSError, AlreadyRunning: as `spawn`, and whatever `start` raises.
        """
        clock = clock or SystemClock()
        lock, took_over = take_over(locks / f"{name}.lock")
        fds: list[int] = []
        try:
            lifeline_read, lifeline_write = _pipe(fds)
            heart_read, heart_write = _pipe(fds)
            output_read, output_write = _pipe(fds)
            numbers = [lifeline_read, heart_write, lock.fd]
            ours, theirs = _pair(fds) if control else (-1, -1)
            if control:
                numbers.append(theirs)
            ends = Ends(dict(zip(VARIABLES, numbers, strict=False)), output_write, lock)
            process = start(ends)
        except BaseException:
            lock.close()
            for fd in fds:
                os.close(fd)
            raise
        lock.record(process.pid, clock=clock)
        lock.close()  # from here on the child alone holds it
        for fd in (lifeline_read, heart_write, output_write, *numbers[3:]):
            os.close(fd)
        os.set_blocking(heart_read, False)
        os.set_blocking(output_read, False)
        return cls(
            name=name,
            pid=process.pid,
            started=clock.monotonic(),
            heart_fd=heart_read,
            output_fd=output_read,
            took_over=took_over,
            _process=process,
            _lifeline=lifeline_write,
            control=socket.socket(fileno=ours) if control else None,
        )

    def beats(self) -> list[dict[str, Any]] | None:
        """Return the messages that have arrived since the last call, None after the last one."""
        data = self.read(self.heart_fd)
        if data == b"":
            return None
        self._buffer += data or b""
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest[-BEAT_BYTES_MAX:]
        messages = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):  # an agent's own code can write
                message = json.loads(line)
                if isinstance(message, dict):
                    messages.append(message)
        return messages

    @staticmethod
    def read(fd: int) -> bytes | None:
        """Read what is there. b"" at the end of the stream, None when there is nothing yet."""
        try:
            return os.read(fd, READ_BYTES)
        except BlockingIOError:
            return None

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal) once it is dead, and kill what it left.

        A tool's child that lives on in the group would hold the pipes, and work for nobody.
        """
        code = self._process.poll()
        if code is not None and self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return code

    def suspended(self) -> bool:
        """Say whether it is stopped by a signal (SIGSTOP)."""
        return self._process.stopped()

    def terminate(self) -> None:
        """Ask it to stop in order: SIGTERM to the child alone, and SIGCONT in case it is stopped.

        Not to its group: a tool's child that dies first would look like a failed tool.
        """
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
                os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill its whole group at once; works on a stopped one too.

        Not one that is dead: where a server reaped it, its number may be somebody else's by now.
        """
        if self.poll() is None:
            kill_group(self.pid)

    def take_control(self) -> socket.socket:
        """Return our end of its control socket, which is the caller's to close from now on.

        For who hears it in the event loop: that has to be left off before it is closed.
        """
        assert self.control is not None
        taken, self.control = self.control, None
        return taken

    def close(self) -> None:
        """Close the pipes. Only for a child that is dead: a living one would kill itself."""
        for fd in (self.heart_fd, self.output_fd):
            if fd >= 0:
                os.close(fd)
        self.heart_fd = self.output_fd = -1
        if self.control is not None:
            self.control.close()


def _pipe(fds: list[int]) -> tuple[int, int]:
    pair = os.pipe()  # not inheritable (PEP 446); Popen passes only the ends in pass_fds
    fds.extend(pair)
    return pair


def _pair(fds: list[int]) -> tuple[int, int]:
    ends = socket.socketpair()
    # A whole answer fits: macOS has 8 KiB for one by itself.
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BYTES)
    fds.extend(end.detach() for end in ends)
    return fds[-2], fds[-1]


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of one of our modules, by this same interpreter.

    -P keeps the working folder off sys.path: a user's agents/ must not shadow anything.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
