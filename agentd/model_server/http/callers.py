"""Who calls: an agent, as its own link says, or another program.

What other programs say of themselves lifts them over no agent, and names none.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agentd.model_server.calls import Refused
from agentd.model_server.http.answers import error_response
from agentd.states import Priority

HEADER_TEXT_MAX = 200
OTHERS = "other:"  # before the name that another program gives itself: no agent's name has a colon
PEER = "agentd.peer"  # in a request's scope

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, as the socket itself says."""

    agent: str | None = None  # whose link it came by
    known: bool = False  # needs no token: an agent's, or by a socket that only this user reaches


class Caller(BaseModel):
    """What a caller says of itself in the X-Agentd-* headers. All are optional."""

    model_config = ConfigDict(extra="forbid")

    agent: str = Field("", max_length=HEADER_TEXT_MAX, pattern=r"^[ -~]*$")
    session: str | None = Field(None, max_length=HEADER_TEXT_MAX, pattern=r"^[ -~]*$")
    priority: Priority = Priority.EVENT
    weight: int = Field(5, ge=1, le=9)
    deadline: float | None = Field(None, gt=0, allow_inf_nan=False)

    def asks(self, peer: Peer, deadline_s: float) -> dict[str, Any]:
        """Return what its calls say of who asks; no deadline is longer than `deadline_s`."""
        named = OTHERS + self.agent if self.agent else ""
        return {
            **self.model_dump(exclude={"deadline"}),
            "agent": named if peer.agent is None else peer.agent,
            "guest": peer.agent is None,
            "deadline_s": min(self.deadline or deadline_s, deadline_s),
        }


def caller(headers: Mapping[str, str]) -> Caller:
    """Read the X-Agentd-* headers. Raises Refused."""
    prefix = "x-agentd-"
    given = {
        name: headers[prefix + name] for name in Caller.model_fields if prefix + name in headers
    }
    try:
        return Caller.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"X-Agentd-{str(first['loc'][0]).capitalize()}"
        raise Refused(f"{name}: {first['msg']}", code="invalid_header", param=name) from error


def peer(request: Request) -> Peer:
    """Return who is at the other end of a request's connection."""
    found = request.scope.get(PEER)
    return found if isinstance(found, Peer) else Peer()


class Authenticated:
    """Lets requests through whose peer is known, or that carry the token; /health needs neither."""

    def __init__(self, app: ASGIApp, knows: Callable[[Iterable[Header]], bool]) -> None:
        self._app = app
        self._knows = knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        open_to_all = scope["type"] != "http" or scope["path"] == "/health"
        if open_to_all or scope.get(PEER, Peer()).known or self._knows(scope["headers"]):
            await self._app(scope, receive, send)
            return
        refusal = Refused("a wrong or missing bearer token", status=401, code="unauthorized")
        await error_response(refusal)(scope, receive, send)
