"""Commands from the bus, taken in order and obeyed.

`agentd reload`, `pause`, `resume`, `restart NAME`, `ui` and `token --renew` send them.
"""

import asyncio
from collections.abc import Callable

from agentd.clock import Clock
from agentd.errors import AgentdError, DamagedDatabase
from agentd.events import Event
from agentd.logs.logger import Logger
from agentd.supervisor.agents import Agents
from agentd.supervisor.model import NAME as MODEL
from agentd.supervisor.model import ModelHost
from agentd.supervisor.records import Records

MAX_AGE_S = 60.0  # an older command is nobody's wish any more


class Control:
    """Obeys what is addressed to the supervisor, until `stopping` is set."""

    def __init__(
        self,
        records: Records,
        agents: Agents,
        model: ModelHost,
        reload: Callable[[str | None], None],
        open_page: Callable[[], None],
        stopping: asyncio.Event,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self._records, self._agents, self._model = records, agents, model
        self._reload, self._open_page, self._stopping = reload, open_page, stopping
        self._log, self._clock = log, clock
        self._obeying = asyncio.Lock()

    async def obey_all(self) -> None:
        """Obey every command that waits.

        Raises:
            DamagedDatabase: they cannot be read, and never will.
        """
        try:
            async with self._obeying:  # one after the other, in their order
                while (event := await self._records.next_command()) is not None:
                    if not self._stopping.is_set():
                        await self._obey(event)
        except DamagedDatabase:
            raise
        except AgentdError as error:  # also a lane that a person's SQL moves under us
            self._log.error("commands.delayed", error=error.what)

    async def _obey(self, event: Event) -> None:
        name = event.payload.get("agent")
        age_s = (self._clock.now() - event.created_at).total_seconds()
        keys = {"type": event.event_type, "event_id": event.id, "target": name}
        if age_s > MAX_AGE_S:
            self._log.warning("command.expired", age_s=round(age_s), **keys)
            return
        self._log.info("command", **keys)
        if event.event_type == "agentd.reload" and (name is None or isinstance(name, str)):
            self._reload(name)
        elif event.event_type == "agentd.ui":
            self._open_page()
        elif event.event_type == "agentd.token":
            self._model.read_token()
        elif name == MODEL and event.event_type in ("agentd.resume", "agentd.restart"):
            self._model.retry()
            if event.event_type == "agentd.restart":
                self._model.managed.restart()
        elif not await self._obey_for(event.event_type, name):
            self._log.warning("command.unknown", **keys)

    async def _obey_for(self, event_type: str, name: object) -> bool:
        """Obey a command for one agent; one that is gone needs nothing. False: it is none."""
        if not isinstance(name, str):
            return False
        slot = self._agents.slots.get(name)
        match event_type:
            case "agentd.pause":
                if slot:
                    await slot.pause()
            case "agentd.resume":
                if slot:
                    await slot.resume()
            case "agentd.restart":
                if slot:
                    slot.restart()
            case _:
                return False
        return True
