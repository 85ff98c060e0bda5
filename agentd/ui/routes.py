"""Every address of the page, and what stands around each: forms, streams, errors."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agentd.errors import AgentdError, UsageError
from agentd.process.jobs import fault
from agentd.ui import agent_pages, ask_page, log_page, model_page, session_pages, today
from agentd.ui.acting import argv_of, goes_to, said
from agentd.ui.live_stream import TooManyPages
from agentd.ui.page_parts import PageParts, number, parts_of

PAGES = (today, agent_pages, session_pages, model_page, log_page, ask_page)
FORM_BYTES_MAX = 65_536
FIELDS_MAX = 50
FORM_S = 10.0
# A path of ours, with what it asks for: nothing that a browser takes for a host.
PLACE = re.compile(r"((?:/[\w.%-]+)+/?|/)(?:\?(.*))?")
STATUS = {UsageError: 400, TooManyPages: 503}  # of our errors; of all others 500


def application(parts: PageParts) -> Starlette:
    """Return what answers who was let in."""
    app = Starlette(
        routes=[
            *(route for page in PAGES for route in page.ROUTES),
            Route("/act", _act, methods=["POST"]),
            Route("/live", _live),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        exception_handlers={AgentdError: _ours, HTTPException: _none, Exception: _ours},
    )
    app.state.parts = parts
    return app


async def _act(request: Request) -> Response:
    """Do what a form says; the page that it stands on comes back with a message."""
    parts, form = parts_of(request), await _form(request)
    if not parts.rendering.holds(request, form):
        raise UsageError("this form is of another page, or too old", hint="load its page anew")
    done = await parts.acting.act(argv_of(form))
    message = said(done, form)
    if request.headers.get("accept") == "application/json":
        body = {"ok": done.ok, "message": message, "document": done.document}
        return JSONResponse({**body, "go": goes_to(done, form)})
    if (place := goes_to(done, form)) is not None:
        return RedirectResponse(place, 303)
    found = PLACE.fullmatch(form.get("back", ""))
    path, asked = found.groups("") if found else ("/", "")
    query = [(key, value) for key, value in parse_qsl(asked) if key != "said"]
    query.append(("said", parts.acting.keep(message)))
    return RedirectResponse(f"{path}?{urlencode(query)}", 303)


async def _form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form.

    Raises:
        UsageError: it is none, or too large.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for data in request.stream():
                body += data
                if len(body) > FORM_BYTES_MAX:
                    raise UsageError(f"a form may have {FORM_BYTES_MAX} bytes")
    except TimeoutError as error:
        raise UsageError(f"this form did not come within {FORM_S:g} s") from error
    except ClientDisconnect as error:
        raise UsageError("this form broke off") from error
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise UsageError("only a form of a page is taken", where=kind[:60])
    try:
        return dict(parse_qsl(body.decode(), True, strict_parsing=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise UsageError(f"this is no form: {error}") from error


async def _live(request: Request) -> Response:
    given = request.query_params
    after = number(request.headers.get("last-event-id")) or number(given.get("after"))
    stream = parts_of(request).live.stream(after, number(given.get("seen")))
    first = await anext(stream)  # or why there is none

    async def whole() -> AsyncIterator[str]:
        yield first
        async for text in stream:
            yield text

    return StreamingResponse(whole(), media_type="text/event-stream")


async def _ours(request: Request, error: Exception) -> Response:
    ours = error if isinstance(error, AgentdError) else fault(error)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return await _error(request, ours, status)


async def _none(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return await _error(
        request, AgentdError(error.detail, where=request.url.path), error.status_code
    )


async def _error(request: Request, error: AgentdError, status: int) -> Response:
    wants = request.headers.get("accept", "")
    if request.url.path.startswith("/api/") or wants == "application/json":
        document = {"ok": False, "message": str(error), "error": error.document()}
        return JSONResponse(document, status)
    return await parts_of(request).rendering.error(request, error, status)
