"""One station of the chaos test's pipeline: checks an order, ships it once, passes it on.

Its tools keep a journal of their side effects beside the database. `Check` may run again, `Ship`
must not. Both go on by the agent's hands: `Check` reads a file, and the real effect of `Ship` is a
line that a program writes. `Check` fetches a page as well, by way of the fetcher.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentd.agent import Agent, Result
from agentd.errors import ToolError
from agentd.events import Event, NewEvent

# The one argument is the line, the other the file; printf writes it in one piece.
EFFECT = ["-c", 'printf "%s\\n" "$1" >> "$2"', "effect"]


class StationParams(BaseModel):
    """Where it writes what its tools do, and what it passes an order on as."""

    model_config = ConfigDict(extra="forbid")

    journal: str
    stock: str
    publish: str
    site: str = ""  # host and port of a page that `Check` fetches


class Order(BaseModel):
    """One order, or one run of a schedule, and the stations that it has passed."""

    model_config = ConfigDict(extra="forbid")

    n: int
    path: list[str]
    title: str = ""  # of a bill, which is a result


class Shipped(BaseModel):
    """What `Ship` stages: it takes effect with the session's end."""

    model_config = ConfigDict(extra="forbid")

    n: int
    parcel: str


class Station(Agent[StationParams]):
    """Check | Ship | Done, in this order: the mask leaves out what is not next."""

    Params = StationParams
    function = "Station"
    idempotent = frozenset({"Check"})

    @classmethod
    def published(cls, params: StationParams) -> Mapping[str, type[BaseModel]]:
        """Return the configured type, and `parcel.shipped`."""
        return {params.publish: Order, "parcel.shipped": Shipped}

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Note what was done before: a result of `Ship`, also an interrupted one, has a parcel."""
        self.event = event
        self.n = int(event.payload.get("n", event.id))  # a schedule's event has no number
        self.checked = any("parcel" not in result for result in results)
        self.shipped = any("parcel" in result for result in results)

    def opening(self, event: Event) -> Result:
        """Return the order's number."""
        return Result({"n": self.n}, trusted=False)

    def barred(self) -> frozenset[str]:
        """Bar all but what is next."""
        following = "Done" if self.shipped else "Ship" if self.checked else "Check"
        return frozenset({"Check", "Ship", "Done"} - {following})

    def dispatch(self, decision: Any) -> Result:
        """Carry out Check or Ship."""
        match decision:
            case self.kit.types.Check():
                self._note("check", "start")
                self.checked = True
                self.kit.tools.call("ReadFile", {"path": self.params.stock, "start": None})
                if self.params.site:
                    with suppress(ToolError):  # the fetcher was killed in it, and then again
                        self.kit.tools.call("HttpGet", {"url": f"http://{self.params.site}/"})
                self._note("check", "finish")
                return Result({"checked": self.n})
            case self.kit.types.Ship():
                self.shipped = True
                return self._ship(str(decision.parcel))
        raise ToolError("decide Check, Ship or Done")

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Pass the order on, and count it."""
        path = [*event.payload.get("path", []), self.kit.name]
        billed = self.params.publish == "order.billed"
        order = Order(n=self.n, path=path, title=f"order {self.n} is billed" if billed else "")
        count = int(self.kit.memory.get("count", 0)) + 1
        return Result(
            {"grade": done.grade},
            publish=[NewEvent(self.params.publish, order.model_dump())],
            remember={"count": count, "last": self.n},
        )

    def _ship(self, parcel: str) -> Result:
        self._note("ship", "start")
        line = self._line("ship", "effect")
        args = [*EFFECT, line, self.params.journal]
        try:
            done = self.kit.tools.call("RunCommand", {"program": "sh", "args": args}).value
        except ToolError as error:
            return Result({"parcel": parcel, "error": error.what})
        if done["exit"] != 0:
            return Result({"parcel": parcel, "error": f"exit {done['exit']}: {done['output']}"})
        self._note("ship", "finish")
        shipped = Shipped(n=self.n, parcel=parcel)
        return Result(
            {"parcel": parcel, "shipped": self.n},
            publish=[NewEvent("parcel.shipped", shipped.model_dump())],
        )

    def _note(self, tool: str, what: str) -> None:
        file = Path(self.params.journal)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, self._line(tool, what).encode() + b"\n")
        finally:
            os.close(descriptor)

    def _line(self, tool: str, what: str) -> str:
        facts = {"agent": self.kit.name, "event": self.event.id, "tool": tool, "what": what}
        return json.dumps({**facts, "pid": os.getpid(), "at": time.time()})
