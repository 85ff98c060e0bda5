"""Compilations: each once, a few at a time, with an end in time and a stack that is deep enough.

The compiler is native code that can neither be interrupted nor be trusted with a small stack: it
recurses along a schema's nesting and references.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from agentd.model_server.calls import Full, Refused

KEPT_MAX = 128  # results, refusals included
SLOTS = 2  # compilations at a time
DEADLINE_S = 10.0  # for a slot, and again for the result; within the schema rules one takes 2 s
STACK_BYTES = 256 * 1024 * 1024  # address space only: what is not touched takes no memory

T = TypeVar("T")
_stack_size = threading.Lock()  # the size is a setting of the process


class Compilations(Generic[T]):
    """Results by key, the least recently used forgotten first. Usable from any thread."""

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Future[T | Refused]] = OrderedDict()
        self._slots = threading.BoundedSemaphore(SLOTS)

    def get(self, key: str, compile_it: Callable[[], T]) -> T:
        """Return what `compile_it` returns or returned for this key.

        Whoever asks meanwhile waits for the same compilation. A refusal is remembered too. One
        that takes too long goes on alone, in its slot; its result is there for a later call.

        Raises:
            Refused: `compile_it` did, or it takes too long.
            Full: too many others are being compiled.
        """
        with self._lock:
            found = self._kept.get(key)
            mine = found is None
            future = self._kept[key] = Future() if found is None else found
            self._kept.move_to_end(key)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        if mine:
            self._start(key, future, compile_it)
        try:
            result = future.result(self._deadline_s)
        except CancelledError:
            busy = "too many schemas are being compiled"
            raise Full(busy, retry_after_s=5, code="compiler_busy") from None
        except TimeoutError:
            late = f"the schema was not compiled within {self._deadline_s:g} s"
            raise Refused(late, code="unsupported_schema") from None
        if isinstance(result, Refused):  # not the same object: a raised one collects tracebacks
            raise Refused(
                result.message, status=result.status, code=result.code, param=result.param
            )
        return result

    def _start(self, key: str, future: "Future[T | Refused]", compile_it: Callable[[], T]) -> None:
        if not self._slots.acquire(timeout=self._deadline_s):
            self._forget(key, future)
            future.cancel()
            return

        def run() -> None:
            try:
                future.set_result(compile_it())
            except Refused as refusal:
                future.set_result(refusal)
            except BaseException as error:  # a fault of ours: raised where the result is awaited
                self._forget(key, future)
                future.set_exception(error)
            finally:
                self._slots.release()

        thread = threading.Thread(target=run, name="compile", daemon=True)
        with _stack_size:
            before = threading.stack_size(STACK_BYTES)
            try:
                thread.start()
            finally:
                threading.stack_size(before)

    def _forget(self, key: str, future: "Future[T | Refused]") -> None:
        with self._lock:
            if self._kept.get(key) is future:
                del self._kept[key]
