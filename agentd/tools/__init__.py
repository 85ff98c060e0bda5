"""The shared tools: typed decisions with handlers, bound to one agent's permissions.

Each tool is a BAML class of the same name and fields in baml_src/tools.baml. They stand in
`files.py`, `http.py`, `shell.py` and `person.py`; `base.py` says what a tool is.

`place.py` resolves a path that a tool was given. `closed.py` has the places that no permission
opens: by `surroundings.py`, by the names in `obeyed.py`, by what `git_settings.py` finds named, and
by `links.py`, where links lead. `public.py` tells which addresses are public.

`git.py` looks at repositories for agents, by way of `git_command.py`, after `repository.py` found
what git would read there.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentd.agent import Result
from agentd.clock import Clock, SystemClock
from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.net.exchange import Stream
from agentd.process.stop import Cancel
from agentd.tools import files, http, person, shell
from agentd.tools.base import DEADLINE_S, Output, Tool, ToolCall
from agentd.tools.closed import Closed
from agentd.tools.place import locate

__all__ = ["REGISTRY", "Tool", "ToolCall", "Toolbox"]

REGISTRY: Mapping[str, Tool] = {
    tool.name: tool for tool in (*files.TOOLS, *http.TOOLS, *shell.TOOLS, *person.TOOLS)
}


class Toolbox:
    """One agent's tools; an `agent.Tools`.

    `closed` is what no tool opens, such as the bus, whatever the permissions say; what others
    would run is written by none in any case (tools/closed.py). A call may take `deadline_s`.
    `connect` opens connections in the network's place, `programs` answers for programs in theirs.
    """

    def __init__(
        self,
        permissions: Permissions,
        *,
        closed: Closed | None = None,
        deadline_s: float = DEADLINE_S,
        connect: Callable[[str], AbstractContextManager[Stream]] | None = None,
        programs: Callable[[Sequence[str]], Output] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.permissions = permissions
        self._closed = closed or Closed()
        self._deadline_s = deadline_s
        self._connect = connect
        self._programs = programs
        self._clock = clock or SystemClock()
        self.cancel = Cancel()

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run the tool behind the decision class `name`.

        Raises:
            PermissionRefused: the permissions do not list what it wants.
            ToolError: it refused or failed in an expected way; the model is told.
            Stopped: `close` was called.
        """
        tool = REGISTRY.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name}")
        if tool.permission and not getattr(self.permissions, tool.permission):
            raise PermissionRefused(
                f"{name} needs [permissions] {tool.permission}, which lists nothing"
            )
        try:
            checked = tool.args.model_validate(args)
        except ValidationError as error:
            raise ToolError(f"{name}: {_told(error)}") from error
        call = ToolCall(
            permissions=self.permissions,
            closed=self._closed,
            deadline_s=self._deadline_s,
            connect=self._connect,
            programs=self._programs,
            cancel=self.cancel,
            clock=self._clock,
        )
        call.check()
        try:
            return tool.run(checked, call)
        except (OSError, UnicodeError, RuntimeError) as error:
            # What lies outside may be anything, and change while it is looked at.
            raise ToolError(f"{name} failed: {error or type(error).__name__}") from error

    def check_readable(self, path: Path) -> None:
        """Raise PermissionRefused unless the permissions let this folder or file be read."""
        locate(str(path), self.permissions.read, self._closed.marks(writing=False))

    def close(self) -> None:
        """Interrupt a running call, from another thread, for good: it raises `Stopped`."""
        self.cancel.stop()


def _told(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(str(part) for part in item["loc"])
        problems.append(f"{key}: {item['msg']}" if key else item["msg"])
    return "; ".join(problems)
