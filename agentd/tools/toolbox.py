"""One agent's tools: permission and arguments are checked here, then the tool runs in its place."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentd.clock import Clock, SystemClock
from agentd.config.agent import Permissions
from agentd.config.mail_account import Account
from agentd.errors import PermissionRefused, ToolError
from agentd.events import Result
from agentd.net.exchange import Stream
from agentd.process.stop import Cancel
from agentd.tools.base import (
    DEADLINE_S,
    Grants,
    Output,
    ToolCall,
    answered,
    no_password,
)
from agentd.tools.closed import Closed
from agentd.tools.declared_tools import REGISTRY, Tool
from agentd.tools.handlers import handler
from agentd.tools.place import locate
from agentd.tools.remote import Remote
from agentd.tools.session_view import SessionView


class Toolbox:
    """One agent's tools; an `agent.Tools`.

    `own` is the folder that is the agent's own, where it has one. `closed` is what no tool opens,
    such as the bus, whatever the permissions say; what others would run is written by none in any
    case (tools/closed.py). A call may take `deadline_s`.
    `connect` opens connections in the network's place, `programs` answers for programs in theirs.
    `remotes` are the processes that carry tools out, by their place; what has none runs here.
    `tools` are all that there are for it. `secret` gives the passwords of its `accounts`.
    """

    def __init__(
        self,
        permissions: Permissions,
        *,
        own: str = "",
        closed: Closed | None = None,
        deadline_s: float = DEADLINE_S,
        connect: Callable[[str], AbstractContextManager[Stream]] | None = None,
        programs: Callable[[Sequence[str]], Output] | None = None,
        remotes: Mapping[str, Remote] | None = None,
        tools: Mapping[str, Tool] = REGISTRY,
        accounts: Mapping[str, Account] | None = None,
        secret: Callable[[str], str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.permissions = permissions
        self.grants = Grants(**permissions.model_dump(), own=own)
        self._closed = closed or Closed()
        self._deadline_s = deadline_s
        self._connect = connect
        self._programs = programs
        self._remotes = remotes or {}
        self._tools = tools
        self._accounts, self._secret = accounts or {}, secret
        self._clock = clock or SystemClock()
        self.cancel = Cancel()
        self.session = SessionView()  # of the session that runs: who runs it gives it

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run the tool behind the decision class `name`.

        Raises:
            PermissionRefused: the permissions do not list what it wants.
            ToolError: it refused or failed in an expected way; the model is told.
            Stopped: `close` was called.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise ToolError(f"there is no tool {name}")
        if tool.needs and not any(self.grants.allows(kind) for kind in tool.needs):
            kinds = " or ".join(tool.needs)
            raise PermissionRefused(f"{name} needs [permissions] {kinds}, which lists nothing")
        try:
            checked = tool.args.model_validate(args).model_dump(mode="json")
        except ValidationError as error:
            raise ToolError(f"{name}: {_told(error)}") from error
        if (remote := self._remotes.get(tool.place)) is not None:
            return remote.call(
                name, checked, self._deadline_s, self.cancel, idempotent=tool.idempotent
            )
        call = ToolCall(
            permissions=self.grants,
            closed=self._closed,
            deadline_s=self._deadline_s,
            connect=self._connect,
            programs=self._programs,
            cancel=self.cancel,
            clock=self._clock,
            session=self.session,
            accounts={name: account.url for name, account in self._accounts.items()},
            password=self._password,
        )
        call.inner = partial(self._inner, call)
        return answered(name, tool.run, call, checked)

    def _inner(self, call: ToolCall, place: str, name: str, args: Mapping[str, Any]) -> Result:
        """Carry a part of a call out in its place; see `ToolCall.inner`."""
        call.check()
        if (remote := self._remotes.get(place)) is not None:
            return remote.call(name, args, call.left_s, self.cancel, idempotent=True)
        return answered(name, handler(place, name), call, args)

    def _password(self, account: str) -> str:
        """Return an account's password, at the moment at which a server is to be asked."""
        if self._secret is None:
            return no_password(account)
        return self._secret(self._accounts[account].password)

    def check_readable(self, path: Path) -> None:
        """Raise PermissionRefused unless the permissions let this folder or file be read."""
        locate(str(path), self.grants.readable, self._closed.marks(writing=False))

    def close(self) -> None:
        """Interrupt a running call, from another thread, for good: it raises `Stopped`."""
        self.cancel.stop()


def _told(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(str(part) for part in item["loc"])
        problems.append(f"{key}: {item['msg']}" if key else item["msg"])
    return "; ".join(problems)
