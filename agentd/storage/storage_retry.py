"""Waits for the database to work again: a full disk must not look like fifty crashing workers."""

import select
from collections.abc import Callable
from typing import TypeVar

from agentd.errors import Stopped, StorageError
from agentd.logs.logger import Logger
from agentd.process.heart import Heart
from agentd.process.stop import Stop
from agentd.states import Exit

T = TypeVar("T")

WAIT_FIRST_S, WAIT_MAX_S = 0.5, 15.0  # between two tries; doubles


class StorageRetry:
    """Makes calls again that the storage refused, and tells the supervisor why it waits.

    `grace_s`: how long one try may take on top of the wait before it, for the beat's promise.
    """

    def __init__(self, heart: Heart, stop: Stop, log: Logger, grace_s: float) -> None:
        self.waiting = False
        self._heart, self._stop, self._log, self._grace_s = heart, stop, log, grace_s

    def __call__(self, work: Callable[[], T]) -> T:
        """Return what `work()` returns, once the storage lets it.

        Raises:
            DamagedDatabase, NewerDatabase: no try will ever help.
            Stopped: an orderly stop came first.
        """
        wait_s = WAIT_FIRST_S
        while True:
            try:
                result = work()
            except StorageError as error:
                if error.exit_code is Exit.CONFIG:
                    raise
                if not self.waiting:
                    self._log.warning("storage.waits", error=str(error))
                self.waiting = True
                self._heart.waits(error, wait_s + self._grace_s)
            else:
                if self.waiting:
                    self._log.info("storage.well")
                    self._heart.beat(self._grace_s, "idle")
                self.waiting = False
                return result
            if select.select([self._stop.fileno()], [], [], wait_s)[0]:
                raise Stopped("an orderly stop came while the storage did not work")
            wait_s = min(2 * wait_s, WAIT_MAX_S)
