"""An orderly stop of a process: a signal that interrupts whatever waits or runs."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress


def stop_at_once() -> None:
    """Let a signal end this process where nothing has to be stopped in order: not yet, or no more.

    It exits 0, as after a stop in order.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    if not ends_on_hangup():  # then it is a wish to reload, and all is read just now
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def ends_on_hangup() -> bool:
    """Whether SIGHUP means that this process's terminal was closed, and not a wish to reload.

    It has a terminal, and was not started by `nohup`, which lets it live on.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:  # ENXIO: there is none
        return False
    return True


class Cancel:
    """Passes one stop on to whatever is running. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.stopped = False

    def stop(self) -> None:
        """Interrupt running calls, and refuse further ones."""
        with self._lock:
            self.stopped = True
            callbacks = list(self._callbacks)
        with ExitStack() as stack:  # each, also where one before it raised; that is raised then
            for callback in reversed(callbacks):
                stack.callback(callback)

    def also(self, callback: Callable[[], None]) -> None:
        """Call `callback`, from another thread, at the stop; at once if it has come."""
        with self._lock:
            self._callbacks.append(callback)
            stopped = self.stopped
        if stopped:
            callback()

    @contextmanager
    def watching(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback`, from another thread, if the stop comes inside the block."""
        try:
            self.also(callback)
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    @contextmanager
    def bell(self) -> Iterator[socket.socket]:
        """Yield what is readable, in `poll` and `select`, once the stop has come."""
        heard, bell = socket.socketpair()

        def ring() -> None:
            with suppress(OSError):  # nobody listens any more
                bell.shutdown(socket.SHUT_WR)

        with heard, bell, self.watching(ring):
            yield heard


class Stop:
    """An orderly stop: readable in `select` once asked for.

    A handler only writes a byte (PEP 475 restarts an interrupted call, so the flag alone would
    stop nothing, and a handler that takes locks can deadlock with what it interrupted). A thread
    reads the byte and interrupts whatever waits.
    """

    def __init__(self) -> None:
        self._asked_read, self._asked_write = os.pipe()
        self._signal_read, signal_write = os.pipe()
        self.cancel = Cancel()
        self.also = self.cancel.also
        self.also(self._wake)
        os.set_blocking(signal_write, False)
        signal.set_wakeup_fd(signal_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # the wake-up descriptor does the work
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # reloading is the supervisor's
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether the stop was asked for."""
        return self.cancel.stopped

    def fileno(self) -> int:
        """Return a descriptor that is readable once the stop was asked for."""
        return self._asked_read

    def _wake(self) -> None:
        os.write(self._asked_write, b"\0")

    def _watch(self) -> None:
        os.read(self._signal_read, 1)
        self.cancel.stop()
