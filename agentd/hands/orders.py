"""What hands get to know at their start, in the first frame. Private, so it stands in no argv."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentd.sandbox.policy import SandboxPolicy
from agentd.tools.base import Grants
from agentd.tools.closed import Closed

READY = "ready"  # in the first frame of hands that are in their sandbox; else it has an error


@dataclass(frozen=True)
class Orders:
    """One agent's: its sandbox, and what the tools check by themselves."""

    sandbox: SandboxPolicy  # of hands
    programs: SandboxPolicy  # of each program that they start
    require: bool  # a sandbox that is whole
    permissions: Grants
    environ: Mapping[str, str]  # of programs, besides what all have
    closed: Closed
    scratch: str  # a folder of its own, for temporary files
    idle_s: float  # without a call, after which they end
    age_s: float  # after which they end, too: what they know of closed places is so old

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        more = {
            "sandbox": self.sandbox.document(),
            "programs": self.programs.document(),
            "permissions": vars(self.permissions),
            "closed": self.closed.document(),
        }
        return {**vars(self), **more}

    def reaching(self, url: str, port: int) -> "Orders":
        """Return them with a way to the network for programs: a proxy, and nothing else.

        The names in lower case are those that every program obeys: curl takes no other for http.
        """
        environ = {**self.environ, "http_proxy": url, "https_proxy": url}
        sandbox, programs = self.sandbox.reaching(port), self.programs.reaching(port)
        return replace(self, sandbox=sandbox, programs=programs, environ=environ)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Orders":
        """Return what a document of `document` says."""
        granted: dict[str, Any] = {
            key: value if key == "own" else tuple(value)
            for key, value in document["permissions"].items()
        }
        return cls(
            sandbox=SandboxPolicy.of(document["sandbox"]),
            programs=SandboxPolicy.of(document["programs"]),
            require=document["require"],
            permissions=Grants(**granted),
            environ=document["environ"],
            closed=Closed.of_document(document["closed"]),
            scratch=document["scratch"],
            idle_s=document["idle_s"],
            age_s=document["age_s"],
        )
