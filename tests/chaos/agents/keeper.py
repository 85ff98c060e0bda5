"""The chaos test's user of an MCP server: looks at a shelf, books a place, sends an order.

The server's tools write the effects into the journal, and this agent when each began and was done.
`look` only reads, so it may run again. `book` and `send` must not, and `send` asks a person.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentd.agent import Agent, Choice, Result
from agentd.errors import ToolError
from agentd.events import Event, NewEvent

# In their order, with a key that every result of it has, also one that was interrupted.
TOOLS = {"ShelfLook": "looked", "ShelfBook": "shelf", "ShelfSend": "door"}


class KeeperParams(BaseModel):
    """Where it writes what it does, and what it passes an order on as."""

    model_config = ConfigDict(extra="forbid")

    journal: str
    publish: str


class Kept(BaseModel):
    """One order that is kept."""

    model_config = ConfigDict(extra="forbid")

    n: int


class Keeper(Agent[KeeperParams]):
    """ShelfLook | ShelfBook | ShelfSend | Done, in this order: the mask leaves out all but one."""

    Params = KeeperParams
    function = "Keeper"
    uses = ("shelf.look", "shelf.book", "shelf.send")

    @classmethod
    def published(cls, params: KeeperParams) -> Mapping[str, type[BaseModel]]:
        """Return the configured type."""
        return {params.publish: Kept}

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Note what was done before, or may have been."""
        self.event = event
        self.over = {name for name, key in TOOLS.items() if any(key in one for one in results)}

    def opening(self, event: Event) -> Result:
        """Return the order's number."""
        return Result({"n": event.payload["n"]}, trusted=False)

    def barred(self) -> frozenset[str]:
        """Bar all but what is next."""
        following = next((name for name in TOOLS if name not in self.over), "Done")
        return frozenset({*TOOLS, "Done"} - {following})

    def dispatch(self, decision: Any) -> Result:
        """Call the tool that was decided for."""
        assert isinstance(decision, Choice)
        name = decision.name
        self.over.add(name)
        self._note(name, "start")
        looks = name == "ShelfLook"
        with suppress(*[ToolError] * looks):  # its server was killed in it, and then again
            line = self._line(name, "effect")
            self.kit.tools.call(name, {**decision.args, "line": line})
        self._note(name, "finish")
        return Result({TOOLS[name]: True} if looks else decision.args, effect=not looks)

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Pass the order on, and count it."""
        kept = Kept(n=event.payload["n"])
        return Result(
            {"grade": done.grade},
            publish=[NewEvent(self.params.publish, kept.model_dump())],
            remember={"count": int(self.kit.memory.get("count", 0)) + 1},
        )

    def _note(self, name: str, what: str) -> None:
        descriptor = os.open(self.params.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, self._line(name, what).encode() + b"\n")
        finally:
            os.close(descriptor)

    def _line(self, name: str, what: str) -> str:
        tool = name.replace("Shelf", "shelf_").lower()
        facts = {"agent": self.kit.name, "event": self.event.id, "tool": tool, "what": what}
        return json.dumps({**facts, "pid": os.getpid(), "at": time.time()})
