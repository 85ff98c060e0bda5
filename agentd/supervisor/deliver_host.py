"""What sends results, as the supervisor runs it: where [deliver] names a way, and no longer."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from agentd.config.delivery import DeliverConfig, day_folder
from agentd.config.secret_names import secret_names
from agentd.config.secret_values import secret_value
from agentd.deliver.confined import deliver_policy
from agentd.errors import AgentdError, ConfigError, StorageError
from agentd.events import DELIVER
from agentd.macos.on_screen import show
from agentd.net.exchange import place_of
from agentd.paths import private_folder
from agentd.process.child import Child
from agentd.process.jobs import in_thread
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.states import WorkerState
from agentd.supervisor.children import Managed
from agentd.supervisor.fetcher_host import FetcherHost
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.records import Records
from agentd.supervisor.requests import Answer, Asker, Handler, Hearing, Requests
from agentd.supervisor.restart import Life

STOP_S = 1.0  # for it to end in order
STALE_S = 30.0  # between two starts for a folder that is gone


class DeliverHost:
    """Runs it. In the event loop."""

    def __init__(
        self, parts: HostParts, records: Records, fetcher: FetcherHost, life: Life
    ) -> None:
        self._parts, self._records, self._fetcher = parts, records, fetcher
        self._running: DeliverConfig | None = None  # by which it was started
        self._argv: list[str] = []
        self._requests = Requests(self._handlers(), lambda _: fetcher.release(), parts.log)
        self._stale_at = float("-inf")
        self._beginning = asyncio.Lock()
        self._closed = False
        self.managed = Managed(
            DELIVER,
            lambda: parts.spawn(DELIVER, self._argv),
            life,
            parts.reaper,
            hear=self._hear,
            log=parts.log,
            clock=parts.clock,
        )

    def document(self) -> dict[str, Any] | None:
        """Return what `status` says of it, None where results go nowhere."""
        return None if self._running is None else self.managed.document()

    def configure(self, *, again: bool = False) -> None:
        """Start it, stop it, or start it anew, as [deliver] is by now. `again`: also if it is not.

        Returns at once.
        """
        if again or self._parts.config().deliver != self._running:
            self._parts.jobs.start(self._begin(), "deliver")

    def poll(self) -> None:
        """Start it anew where its folder was removed, or is another one, and can be had again."""
        now = self._parts.clock.monotonic()
        if self.managed.beat.get("stale") and now - self._stale_at > STALE_S:
            self._stale_at = now
            self._parts.jobs.start(self._mend(), "mend deliver")

    async def stop(self) -> None:
        """Stop it for good, and return when it is gone."""
        self._closed = True
        self.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=STOP_S)
        await self.managed.gone()

    async def _mend(self) -> None:
        with suppress(ConfigError, OSError):  # a disk that is not there, say: its other ways go on
            await in_thread(self._make_folder, self._parts.config().deliver)
            await self._begin()

    async def _begin(self) -> None:
        async with self._beginning:
            config = self._parts.config().deliver
            self._running = config if config.ways else None
            try:
                await self._records.forget_ways(config.ways)
            except StorageError as error:  # nothing is lost: it is done at the next start
                self._parts.log.error("deliver.not_forgotten", what=error.what)
            if self._running is None:
                self.managed.stop(WorkerState.STOPPED, "[deliver] names no way", grace_s=STOP_S)
                return
            try:
                self._argv = await in_thread(self._prepared, config)
            except AgentdError as error:
                self.managed.stop(WorkerState.INVALID, error.what, grace_s=STOP_S)
                self.managed.problem = error.document()
                return
            if not self._closed:
                self.managed.life.forgive()
                self.managed.restart()

    def _prepared(self, config: DeliverConfig) -> list[str]:
        """Make the folders that it cannot make; return its command line. In a thread."""
        demand(self._parts.required)
        paths = self._parts.paths
        with suppress(OSError):  # a full disk: it has no log
            private_folder(paths.log(DELIVER).parent)
        with suppress(ConfigError, OSError):  # it says so itself, and uses its other ways
            self._make_folder(config)
        return put_into(deliver_policy(config, paths), self._parts.commands.deliver())

    def _make_folder(self, config: DeliverConfig) -> None:
        if (folder := day_folder(config, self._parts.paths)) is not None:
            private_folder(folder)

    def _hear(self, child: Child) -> Hearing:
        assert child.control is not None
        return self._requests.hear(child.control, Asker(DELIVER, "", child.pid))

    # --- what it may ask for

    def _handlers(self) -> Mapping[str, Handler]:
        return {
            "ntfy": self._channel("ntfy"),
            "telegram": self._channel("telegram"),
            "updates": self._channel("telegram", waits=True),
            "secret": self._secret,
            "notify": self._notify,
            "reply": self._records.reply,
        }

    def _channel(self, table: Literal["ntfy", "telegram"], *, waits: bool = False) -> Handler:
        """Return what hands over a channel for posts to the host of this table, and no other."""

        async def answer(asker: Asker, document: dict[str, Any]) -> Answer:
            config = self._running
            way = None if config is None else getattr(config, table)
            if way is None:
                raise AgentdError(f"agentd.toml has no [deliver.{table}] any more")
            name = f"{asker.name}/{document['ask']}"
            return {}, [await self._fetcher.posts(name, place_of(way.url), waits=waits)]

        return answer

    async def _secret(self, _: Asker, document: dict[str, Any]) -> Answer:
        named = {} if self._running is None else self._running.model_dump(mode="json")
        if (name := document.get("name")) not in secret_names(named):
            raise AgentdError("agentd.toml names no such secret under [deliver]")
        return {"value": await in_thread(secret_value, str(name), self._parts.paths)}, ()

    async def _notify(self, _: Asker, document: dict[str, Any]) -> Answer:
        if self._running is None or self._running.notification is None:
            raise AgentdError("agentd.toml has no [deliver.notification]")
        by = await in_thread(show, str(document.get("title")), str(document.get("text")))
        return {"by": by}, ()
