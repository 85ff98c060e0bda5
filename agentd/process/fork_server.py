"""A process that has imported what many children need, and forks them from itself.

They share its memory until they write to it, and begin without an import. It has one thread, no
open database, log or network, and runs nothing of an agent's: what it holds, all of them get.

Its parent sends it an order with a child's descriptors, over its control socket, and is told the
child's pid, and later its end. For as the child's parent, it alone can take note of that.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from agentd.errors import AgentdError
from agentd.process import process_title
from agentd.process.channel import Channel, ChannelClosed, close_all
from agentd.process.child import CONTROL_VARIABLE, end_group, inherited, side_of_one_thread
from agentd.process.fork_rules import why_not
from agentd.process.heart import STOPPING, Heart
from agentd.process.takeover import kill_group
from agentd.states import Exit

BEAT_S = 5.0
PROMISE_S = 10.0  # who hangs tells of no end; so that is to be noticed soon
ENDS_S = 5.0  # from its last beat
# What a person's shell, a terminal and we ourselves send. A child has its own handlers for them.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def serve_forks() -> list[str] | None:
    """Make this process, a `Child` with a control socket, a fork server.

    Returns in each child with its command line. In the server itself: None, after a SIGTERM or
    where nobody orders any more.
    """
    control = inherited(os.environ, CONTROL_VARIABLE)
    heart, lifeline = side_of_one_thread()
    if control is None or lifeline is None:
        raise SystemExit("a fork server is started by the supervisor")
    if why := why_not():
        heart.problem(AgentdError(why))
        raise SystemExit(Exit.CONFIG)
    return _ForkServer(Channel(socket.socket(fileno=control)), heart, lifeline).serve()


class _ForkServer:
    def __init__(self, control: Channel, heart: Heart, lifeline: int) -> None:
        self._control, self._heart, self._lifeline = control, heart, lifeline
        self._children: set[int] = set()
        self._asked_to_stop = False
        self._code = _code_files()

    def serve(self) -> list[str] | None:
        process_title.write(process_title.own())
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        poll = select.poll()
        for fd in (woken, self._lifeline, self._control.fileno()):
            poll.register(fd, select.POLLIN)
        gc.collect()
        gc.freeze()  # a collection in a child must not write to all that they share
        with suppress(ChannelClosed):
            while not self._asked_to_stop:
                self._heart.beat(PROMISE_S, "idle", children=len(self._children))
                ready = {fd for fd, _ in poll.poll(BEAT_S * 1000)}
                if self._lifeline in ready:
                    end_group()
                if woken in ready:
                    os.read(woken, 1024)
                    self._reap()
                while (order := self._control.receive_now()) is not None:
                    if (argv := self._obey(*order)) is not None:
                        return argv
        self._heart.beat(ENDS_S, STOPPING)
        return None

    def _on_signal(self, number: int, _frame: object) -> None:
        self._asked_to_stop = self._asked_to_stop or number in (signal.SIGTERM, signal.SIGINT)

    def _reap(self) -> None:
        """Tell of each child that is dead, and leave nothing in its group."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:  # else it was the guardian
                kill_group(pid)
                self._children.discard(pid)
                self._control.send({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _obey(self, order: Mapping[str, Any], fds: list[int]) -> list[str] | None:
        """Fork one child. In it: return its command line."""
        answer: dict[str, Any] = {"id": order["id"]}
        try:
            if (why := why_not()) or (why := self._outdated()):
                answer["refused"] = why
            elif (pid := self._fork(order, fds)) is None:
                return list(order["argv"])
            else:
                self._children.add(pid)
                answer["pid"] = pid
        except OSError as error:
            answer["errno"] = error.errno
        close_all(fds)
        self._control.send(answer)
        return None

    def _fork(self, order: Mapping[str, Any], fds: list[int]) -> int | None:
        """Return the child's pid once it is what was ordered; None in the child.

        Raises:
            OSError: the system refuses one, or what it has to become.
        """
        heard, told = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            close_all([heard, told])
            raise
        if pid == 0:
            try:
                self._control.close()  # by its object, which would close the number once more
                _become(order, fds)
            except BaseException as error:  # this process must not go on as another server
                _fail(error, told)
            return None
        os.close(told)
        refused = os.read(heard, 16)  # ends with the child's own end, which it closes with all else
        os.close(heard)
        if refused:
            os.waitpid(pid, 0)
            raise OSError(int(refused), os.strerror(int(refused)))
        return pid

    def _outdated(self) -> str:
        """Say whether what was imported is no more what is installed: it was updated meanwhile."""
        if any(_stamp(file) != known for file, known in self._code):
            return "the installed code has changed since it was imported"
        return ""


def _become(order: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Make of this forked process what a new one would be.

    `order`: argv, env, cwd, and the variables that name the descriptors, the last of which is where
    it prints.
    """
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(fds[-1], 1)
    os.dup2(fds[-1], 2)
    os.chdir(order["cwd"])
    _set_environment({**order["env"], **dict(zip(order["names"], map(str, fds), strict=False))})
    time.tzset()  # the C library has what it found at the server's start: a machine travels
    sys.argv = list(order["argv"])
    process_title.write(order["argv"])
    _close_all_but({0, 1, 2, *fds[:-1]})  # the last that can fail: with it, that it is one is told


def _set_environment(wanted: Mapping[str, str]) -> None:
    """Change what differs: the server has most of it, and what is written is shared no more."""
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _close_all_but(kept: set[int]) -> None:
    """Close what is the server's: to order children, and to hear their ends, is not theirs."""
    for entry in os.listdir("/dev/fd"):  # noqa: PTH208 - paths would write to 300 KB
        if int(entry) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(entry))


def _fail(error: BaseException, told: int) -> NoReturn:
    """End a child that did not come to be, and say why: what the system refused, to the server."""
    if isinstance(error, OSError) and error.errno:
        with suppress(OSError):
            os.write(told, str(error.errno).encode())
    else:
        import traceback

        with suppress(BaseException):
            os.write(2, "".join(traceback.format_exception(error)).encode())
    os._exit(Exit.FAILED)


def _code_files() -> list[tuple[Path, object]]:
    """Return the files of the loaded modules, and what tells whether each is still the same."""
    loaded = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    return [(file, _stamp(file)) for file in map(Path, sorted({name for name in loaded if name}))]


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
