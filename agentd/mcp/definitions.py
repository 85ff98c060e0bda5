"""A tool of an MCP server, as an agent has it: its names, what was accepted of it, its effect."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agentd.errors import ConfigError
from agentd.json_schema.canonical import json_digest

# As `tools` and `uses` name one: server, dot, the server's own name for it.
TOOL_NAME = re.compile(r"([a-z][a-z0-9_]{0,47})\.([A-Za-z0-9_./-]{1,128})")
HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
FILE = "mcp.json"  # the place of an agent's tools in a version's folder


@dataclass(frozen=True)
class McpTool:
    """One tool. `definition`: what was accepted; `about`: of its descriptions, what is shown.

    `about` has texts by argument, and the tool's own under "".
    """

    server: str
    tool: str  # the server's own name for it
    definition: Mapping[str, Any]
    string_max: int
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in configurations and answers: "git.git_log"."""
        return f"{self.server}.{self.tool}"

    @property
    def decision(self) -> str:
        """Its class in an agent's union: GitGitLog."""
        return decision_of(self.name)

    @property
    def digest(self) -> str:
        """What tells an accepted definition from any other."""
        return json_digest(self.definition)

    @property
    def reads(self) -> bool:
        """Whether it changes nothing. Only a clear word counts, and it was accepted with it."""
        hints = self.definition["annotations"]
        return hints.get("readOnlyHint") is True and hints.get("destructiveHint") is not True


def split(name: str) -> tuple[str, str] | None:
    """Return server and tool of "git.git_log", None for what names no MCP tool."""
    found = TOOL_NAME.fullmatch(name)
    return (found[1], found[2]) if found else None


def decision_of(name: str) -> str:
    """Return the class for a tool's name, other names as they are."""
    if split(name) is None:
        return name
    return "".join(part[0].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name) if part)


def pinned(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is accepted of a tool as a server lists it: what a model or our rules go by."""
    hints = told.get("annotations") or {}
    return {
        "description": str(told.get("description") or ""),
        "inputSchema": told.get("inputSchema") or {},
        "annotations": {key: hints[key] for key in HINTS if isinstance(hints.get(key), bool)},
    }


def by_decision(tools: Iterable[McpTool]) -> dict[str, McpTool]:
    """Return tools by their classes.

    Raises:
        ConfigError: two have the same class.
    """
    found: dict[str, McpTool] = {}
    for tool in tools:
        if (other := found.setdefault(tool.decision, tool)) != tool:
            raise ConfigError(
                f"{other.name} and {tool.name} would both be the class {tool.decision}",
                hint="name one of them only, or give one of the servers another name",
            )
    return found


def written(tools: Mapping[str, McpTool]) -> bytes:
    """Return the file of these tools in a version's folder."""
    document = {name: asdict(tool) for name, tool in sorted(tools.items())}
    return (json.dumps(document, indent=1, ensure_ascii=True) + "\n").encode()


def read(data: bytes) -> dict[str, McpTool]:
    """Return the tools of such a file."""
    return {name: McpTool(**tool) for name, tool in json.loads(data).items()}
