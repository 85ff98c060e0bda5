"""The process's threads: one for each way, one that listens; and what is said of them."""

import select
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agentd.bus import Bus, Opening
from agentd.clock import Clock, SystemClock
from agentd.config.daemon import DaemonConfig
from agentd.config.delivery import day_folder
from agentd.deliver.courier import Courier
from agentd.deliver.day_file import DayFile
from agentd.deliver.notification import Notification
from agentd.deliver.ntfy import Ntfy
from agentd.deliver.replies import Replies
from agentd.deliver.silence import Silence
from agentd.deliver.telegram import BotApi, TelegramChat
from agentd.deliver.ways import MessageWay, Poster
from agentd.errors import ConfigError, Stopped, StorageError
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.heart import Heart
from agentd.process.stop import Stop
from agentd.process.supervisor_link import SupervisorLink
from agentd.states import Exit
from agentd.storage.database_files import open_bus

BEAT_S, PROMISE_S = 2.0, 30.0
# A thread that has shown nothing for so long hangs: a poll, a message, a lock on the database.
HUNG_S = 300.0
RETRY_S = 5.0  # after the database could not be used


class Rounds(Protocol):
    """What a thread does."""

    def round(self) -> float:
        """Do what is to be done now; return the seconds to wait."""
        ...

    def document(self) -> dict[str, Any]:
        """Return how it goes."""
        ...


class Deliver:
    """Serves until the supervisor stops it."""

    def __init__(
        self,
        paths: Paths,
        config: DaemonConfig,
        heart: Heart,
        link: SupervisorLink,
        log: Logger,
        clock: Clock | None = None,
    ) -> None:
        self._paths, self._daemon, self._config = paths, config, config.deliver
        self._heart, self._link, self._log = heart, link, log
        self._clock = clock or SystemClock()
        self._stop = Stop()
        self._asks: dict[int, dict[str, Any]] = {}  # by chat, what its messages asked
        self._seen: dict[str, float] = {}  # by thread: when it last went on
        self._told: dict[str, dict[str, Any]] = {}  # by thread: how it goes
        self._error: StorageError | None = None  # no later try will help

    def run(self) -> None:
        """Deliver until a stop.

        Raises:
            StorageError: the database is damaged, or a newer agentd's.
        """
        folder = self._folder()
        was = _which(folder)
        for name, make in self._parts(folder).items():
            self._seen[name] = time.monotonic()
            work = threading.Thread(target=self._serve, args=(name, make), name=name, daemon=True)
            work.start()
        while not self._stop.asked and self._error is None:
            if all(time.monotonic() - seen < HUNG_S for seen in self._seen.values()):
                # What was not there, or was removed, is not in our sandbox when it is there again.
                stale = NOWHERE in (was, now := _which(folder)) or was != now
                self._heart.beat(PROMISE_S, "idle", ways=dict(self._told), stale=stale)
            self._pause(BEAT_S)
        if self._error is not None:
            raise self._error

    def _folder(self) -> Path | None:
        try:
            return day_folder(self._config, self._paths)
        except ConfigError as error:
            self._told["file"] = {"state": "failed", "problem": error.document()}
            return None

    def _parts(self, folder: Path | None) -> dict[str, Callable[[Bus], Rounds]]:
        """Return what makes each thread's part, by the thread's name, in that thread."""
        config, link, cancel = self._config, self._link, self._stop.cancel
        ways: dict[str, MessageWay | DayFile] = {}
        if folder is not None:
            ways["file"] = DayFile(folder)
        if config.ntfy is not None:
            ways["ntfy"] = Ntfy(config.ntfy, Poster(link, "ntfy", cancel))
        if config.notification is not None:
            ways["notification"] = Notification(link, cancel)
        parts: dict[str, Callable[[Bus], Rounds]] = {}
        if (telegram := config.telegram) is not None:
            api = BotApi(telegram, Poster(link, "telegram", cancel))
            for chat in telegram.chat_ids:
                ways[f"telegram:{chat}"] = TelegramChat(api, chat, self._asks)
            listener = BotApi(telegram, Poster(link, "updates", cancel))
            parts["telegram"] = partial(self._replies, listener, telegram.chat_ids)
        return {**{name: partial(self._courier, name, way) for name, way in ways.items()}, **parts}

    def _courier(self, name: str, way: MessageWay | DayFile, bus: Bus) -> Courier:
        silence = Silence(self._config.silence, self._config.most_per_day)
        poll_s, log, clock = self._daemon.bus.poll.total_seconds(), self._log, self._clock
        return Courier(name, way, bus, silence, self._config.only, poll_s, log=log, clock=clock)

    def _replies(self, api: BotApi, chats: tuple[int, ...], bus: Bus) -> Replies:
        link, cancel, asks = self._link, self._stop.cancel, self._asks
        return Replies(api, chats, asks, bus, link, cancel, log=self._log, clock=self._clock)

    def _serve(self, name: str, make: Callable[[Bus], Rounds]) -> None:
        """One thread: rounds until the stop. The database is waited for, as long as it takes."""
        part: Rounds | None = None
        while not self._stop.asked:
            self._seen[name] = time.monotonic()
            try:
                if part is None:
                    part = make(self._open())
                wait_s = part.round()
                self._told[name] = part.document()
            except Stopped:
                return
            except StorageError as error:
                if error.exit_code is Exit.CONFIG:
                    self._error = error
                    return
                self._told[name] = {"state": "waits", "problem": error.document()}
                wait_s = RETRY_S
            self._pause(wait_s)

    def _open(self) -> Bus:
        opening = Opening(create=False, full_sync=self._daemon.bus.fullfsync)
        return open_bus(self._paths, opening, self._clock)

    def _pause(self, seconds: float) -> None:
        select.select([self._stop.fileno()], [], [], seconds)


NOWHERE = (0, 0)


def _which(folder: Path | None) -> tuple[int, int] | None:
    """Return which folder this is, `NOWHERE` for one that is not there."""
    if folder is None:
        return None
    try:
        found = folder.stat()
    except OSError:
        return NOWHERE
    return found.st_dev, found.st_ino
