"""Background work of the supervisor's loop: tasks, threads and callbacks. None fails unnoticed."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agentd.errors import AgentdError
from agentd.logs.logger import Logger

T = TypeVar("T")


class Jobs:
    """Tasks whose errors go to `failed`: a person's as they are, a bug's after its traceback.

    `failed` is called in the event loop.
    """

    def __init__(self, log: Logger, failed: Callable[[AgentdError], None]) -> None:
        self._log, self._failed = log, failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear of callbacks that raise in this loop, and of threads that end with an error."""
        self._loop = loop
        loop.set_exception_handler(self._on_loop)
        threading.excepthook = self._on_thread

    def start(
        self, job: Coroutine[Any, Any, None], name: str | None = None, *, last: bool = False
    ) -> "asyncio.Task[None]":
        """Let a coroutine run beside the others. `last`: `end` leaves it to who started it."""
        task = asyncio.create_task(job, name=name)
        if not last:
            self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def end(self) -> None:
        """Cancel what still runs, and return when it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self, error: BaseException) -> None:
        """Pass on that something failed."""
        if not isinstance(error, AgentdError):
            self._log.critical("supervisor.broken", exc_info=error)
            error = fault(error)
        self._failed(error)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.report(error)

    def _on_loop(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            # asyncio's own: a connection broke off, or no descriptor is left for the next one.
            self._log.error("loop.trouble", what=context.get("message", ""), exc_info=error)
        else:
            self.report(error)

    def _on_thread(self, ended: threading.ExceptHookArgs) -> None:
        error = ended.exc_value or ended.exc_type()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.report, error)


def fault(error: BaseException) -> AgentdError:
    """Return a bug as one error for people; its traceback stands in the log."""
    return AgentdError(
        f"a fault of agentd itself: {type(error).__name__}: {error}",
        hint="`agentd logs agentd` has its traceback; please report it",
    )


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Return what `function` returns, or raise what it raises, from a daemon thread.

    `asyncio.to_thread` would keep the process from its end until a folder that hangs answers.
    """
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def run() -> None:
        settle(done, function, *arguments)

    threading.Thread(target=run, name=function.__name__, daemon=True).start()
    return await done


def settle(future: "asyncio.Future[T]", function: Callable[..., T], *arguments: Any) -> bool:
    """Call `function` and give the loop's future what it returns or raises, from any thread.

    Returns whether it returned.
    """
    result: T | None = None
    error: BaseException | None = None
    try:
        result = function(*arguments)
    except BaseException as raised:  # whatever it is, who waits must hear of it
        error = raised

    def report() -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        future.get_loop().call_soon_threadsafe(report)
    return error is None
