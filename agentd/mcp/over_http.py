"""A server at a URL: streamable HTTP to its host alone, and no more than anybody asks for."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from agentd.errors import ToolError
from agentd.mcp.pipes import LINE_BYTES_MAX, WINDOW_S, Flow

TIMEOUT = httpx2.Timeout(30.0, read=300.0)  # an answer may stream; calls have their own deadlines
STREAM = "text/event-stream"


@dataclass(frozen=True)
class ServerUrl:
    """Where a server is, and the proxy that leads there."""

    url: str
    proxy: str  # a URL that holds its secret

    def streams(self) -> AbstractAsyncContextManager[Any]:
        """Return the transport of an `mcp.Client`."""
        return over_http(self.url, self.proxy)


@asynccontextmanager
async def over_http(url: str, proxy: str | None = None) -> AsyncIterator[Any]:
    """Yield the transport of an `mcp.Client`. It follows no redirect to another host or port.

    No proxy of the environment is used, and nothing is known of passwords in files. Certificates
    are trusted as the fetcher trusts them.
    """
    async with (
        httpx2.AsyncClient(transport=_Limited(proxy), timeout=TIMEOUT, trust_env=False) as http,
        streamable_http_client(url, http_client=http, max_sse_event_size=LINE_BYTES_MAX) as streams,
    ):
        yield streams


class _Limited(httpx2.AsyncBaseTransport):
    """Reads no answer without end, and no stream that floods."""

    def __init__(self, proxy: str | None) -> None:
        trusted = ssl.create_default_context()
        self._real = httpx2.AsyncHTTPTransport(verify=trusted, trust_env=False, proxy=proxy)
        self._proxied = proxy is not None
        self._flow = Flow()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._proxied and request.url.scheme == "http":
            # Our proxy passes one request on. A second one, with its secret, would be the server's.
            request.headers["Connection"] = "close"
        try:
            response = await self._real.handle_async_request(request)
        except httpx2.ProxyError as error:
            raise ToolError(f"the fetcher does not get there: {error}") from error
        streams = response.headers.get("content-type", "").startswith(STREAM)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Counted(response.stream, self._flow, None if streams else LINE_BYTES_MAX)
        return response

    async def aclose(self) -> None:
        await self._real.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, real: httpx2.AsyncByteStream, flow: Flow, most: int | None) -> None:
        self._real, self._flow, self._most = real, flow, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._real:
            size += len(part)
            if self._most is not None and size > self._most:
                raise ToolError(f"its answer is longer than {self._most} bytes")
            if self._flow.floods(part.count(b"\n"), len(part)):
                raise ToolError(f"it says too much in {WINDOW_S:g} s")
            yield part

    async def aclose(self) -> None:
        await self._real.aclose()
