"""The log of all processes, newest first: by level, by agent, by session."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.logs.newest import stamp
from agentd.logs.view import LEVELS, log_files
from agentd.paths import Paths
from agentd.process.jobs import in_thread
from agentd.ui.page_parts import number, parts_of
from agentd.views.log_lines import log_lines

WORD_MAX = 100  # characters of a name or time in an address


def _asked(request: Request) -> dict[str, Any]:
    given = request.query_params
    level = given.get("level")
    return {
        "agent": given.get("agent", "")[:WORD_MAX] or None,
        "level": level if level in LEVELS else None,
        "session": number(given.get("session")),
        "before": given.get("before", "")[:WORD_MAX],
    }


async def _document(request: Request) -> dict[str, Any]:
    paths, asked = parts_of(request).reading.paths, _asked(request)

    def read() -> dict[str, Any]:
        return log_lines(paths, **asked)

    return await in_thread(read)


async def _log(request: Request) -> Response:
    """Return the page; where an open one asks again and nothing was logged, that alone."""
    parts = parts_of(request)
    tag = f'"{await in_thread(_stamp, parts.reading.paths)}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304)
    told = await _document(request)
    page = await parts.rendering.page(
        request, "log.html", **told, asked=_asked(request), levels=LEVELS
    )
    page.headers["etag"] = tag
    return page


def _stamp(paths: Paths) -> str:
    return stamp(log_files(paths.logs))


async def _api_log(request: Request) -> Response:
    return JSONResponse(await _document(request))


ROUTES: list[BaseRoute] = [Route("/log", _log), Route("/api/log", _api_log)]
