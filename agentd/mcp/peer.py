"""One MCP server as we talk to it: what tools it has, one call, and what a call came to.

We offer it nothing: no sampling, no roots, no questions to a person. So a server lists the same
tools for every agent.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from mcp import Client, MCPError
from mcp import types as mcp_types

from agentd import __version__
from agentd.errors import ToolError
from agentd.events import INTERRUPTED
from agentd.mcp.definitions import pinned
from agentd.terminal import cut, plain

START_S = 20.0  # for a server to start, and again to say what it has
TEXT_CHARACTERS = 16_000  # of one result's text, as of any tool's
ERROR_CHARACTERS = 1_000
LABEL_CHARACTERS = 200  # of a name or address in a result
PAGES_MAX = 100  # of tools
TOOLS_BYTES_MAX = 4_000_000  # of what it says of them
INFO = mcp_types.Implementation(name="agentd", version=__version__)


@asynccontextmanager
async def connected(streams: AbstractAsyncContextManager[Any]) -> AsyncIterator[Client]:
    """Yield a client that has said hello.

    Raises:
        TimeoutError: the server did not answer within `START_S`.
        Exception: whatever the library makes of what the server sent.
    """
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(START_S):
            client = Client(streams, client_info=INFO, cache=None)
            await stack.enter_async_context(client)
        yield client


async def definitions(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the server says of each of its tools, as far as it is accepted, by name.

    Raises:
        ToolError: it refuses, or says too much.
        TimeoutError: it takes longer than `START_S`.
    """
    found: dict[str, dict[str, Any]] = {}
    cursor, size = None, 0
    async with asyncio.timeout(START_S):
        for _ in range(PAGES_MAX):
            try:
                page = await client.list_tools(cursor=cursor)
            except MCPError as error:
                raise ToolError(f"it does not list its tools: {_label(error.message)}") from error
            for tool in page.tools:
                told = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
                found[tool.name] = pinned(told)
                size += len(json.dumps(found[tool.name]))
            if size > TOOLS_BYTES_MAX:
                break
            if (cursor := page.next_cursor) is None:
                return found
    raise ToolError(f"it lists more than {PAGES_MAX} pages or {TOOLS_BYTES_MAX} bytes of tools")


async def call(client: Client, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one call came to, as the model sees it.

    Raises:
        ToolError: the tool says that it failed, or the server that it cannot; or the server ended.
        Exception: whatever the library makes of what the server sent.
    """
    request = mcp_types.CallToolRequest(
        params=mcp_types.CallToolRequestParams(name=tool, arguments=dict(arguments))
    )
    try:
        # Not `client.call_tool`: that holds the result to the server's own schema, by patterns
        # that may take for ever.
        result = await client.session.send_request(request, mcp_types.CallToolResult)
    except MCPError as error:
        if error.code == mcp_types.CONNECTION_CLOSED:  # the server ended
            raise ToolError(INTERRUPTED) from error
        raise ToolError(plain(error.message[:ERROR_CHARACTERS])) from error
    text = "\n".join(_shown(block) for block in result.content)
    if result.is_error:
        raise ToolError(cut(text, ERROR_CHARACTERS) or "the tool failed and does not say why")
    structured, told = result.structured_content, _json(text)
    value: dict[str, Any] = {}
    if structured is not None and structured != told and structured != {"result": text}:
        written = json.dumps(structured, ensure_ascii=False)
        fits = len(written) <= TEXT_CHARACTERS
        value["structured"] = structured if fits else cut(written, TEXT_CHARACTERS)
    if text or not value:
        value["text"] = cut(text, TEXT_CHARACTERS)
    return value


def _shown(block: mcp_types.ContentBlock) -> str:
    """Return a part of a result as text; what is none is named."""
    match block:
        case mcp_types.TextContent():
            return block.text
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return _named(block.type, block.mime_type, block.data)
        case mcp_types.ResourceLink():
            return f"[resource {_label(block.uri)}: {_label(block.name)}]"
        case mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents() as resource):
            return f"[resource {_label(resource.uri)}]\n{resource.text}"
        case mcp_types.EmbeddedResource(resource=resource):
            blob = getattr(resource, "blob", "")
            return _named(f"resource {_label(resource.uri)}", resource.mime_type, blob)


def _named(what: str, kind: str | None, base64: str) -> str:
    size = len(base64) * 3 // 4 - base64[-2:].count("=")
    return f"[{what}: {_label(kind or 'of no kind')}, {size} bytes, not included]"


def _label(value: object) -> str:
    return plain(cut(str(value), LABEL_CHARACTERS))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
