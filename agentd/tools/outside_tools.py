"""Tools of MCP servers as an agent calls them: the MCP host carries them out."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from agentd.errors import ToolError
from agentd.events import Result
from agentd.mcp.definitions import McpTool
from agentd.tools.base import ToolCall
from agentd.tools.declared_tools import REGISTRY, Tool


class AnyArguments(BaseModel):
    """Whatever the server's schema let through: the mask and the union's parser held them to it."""

    model_config = ConfigDict(extra="allow", frozen=True)


def all_tools(mcp: Mapping[str, McpTool]) -> dict[str, Tool]:
    """Return the shared tools, and these of MCP servers, by class."""
    outside = {
        name: Tool(
            create_model(name, __base__=AnyArguments),
            None,
            _nowhere,
            "mcp",
            idempotent=tool.reads,
            effect="none" if tool.reads else "send",
        )
        for name, tool in mcp.items()
    }
    return {**REGISTRY, **outside}


def _nowhere(call: ToolCall, **_: Any) -> Result:
    raise ToolError("tools of MCP servers are called by `agentd run` alone")
