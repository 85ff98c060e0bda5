"""A session turn by turn, one turn with its exact prompt, and an event with what came of it."""

import json
from itertools import groupby
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.terminal import cut
from agentd.ui.page_parts import number, parts_of
from agentd.views.causes import event_document
from agentd.views.session_turns import session_document, turn_document

PAYLOAD_CHARACTERS_MAX = 100_000  # of an event
SHORT_CHARACTERS = 400  # of a payload that is shown at once; a longer one is opened


async def _session_document(request: Request) -> dict[str, Any]:
    session, first = request.path_params["id"], number(request.query_params.get("from"), 9) or 1
    reading = parts_of(request).reading
    return await reading.call(lambda bus: session_document(bus, session, first=first))


async def _session(request: Request) -> Response:
    told = await _session_document(request)
    steps = told["steps"]
    begin_s = steps[0]["begin_s"] if steps else 0.0
    span_s = steps[-1]["end_s"] - begin_s if steps else 0.0  # of the waterfall
    return await parts_of(request).rendering.page(
        request,
        "session.html",
        one=told,
        turns=_turns(steps),
        begin_s=begin_s,
        span_s=span_s,
        short=SHORT_CHARACTERS,
    )


def _turns(recorded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps by turn, each turn with the time that it took."""
    found = []
    for turn, group in groupby(recorded, key=lambda step: step["turn"]):
        steps = list(group)
        decision = steps[0] if steps[0]["kind"] == "decision" else None
        took_s = steps[-1]["end_s"] - steps[0]["begin_s"]
        found.append({"number": turn, "decision": decision, "steps": steps, "took_s": took_s})
    return found


async def _turn_document(request: Request) -> dict[str, Any]:
    session, turn = request.path_params["id"], request.path_params["turn"]
    return await parts_of(request).reading.call(lambda bus: turn_document(bus, session, turn))


async def _prompt(request: Request) -> Response:
    told = await _turn_document(request)
    return await parts_of(request).rendering.page(request, "prompt.html", one=told)


async def _event_document(request: Request) -> dict[str, Any]:
    event_id = request.path_params["id"]
    found = await parts_of(request).reading.call(lambda bus: event_document(bus, event_id))
    if found is None:
        raise HTTPException(404, "There is no such event, or not any more.")
    return found


async def _event(request: Request) -> Response:
    found = await _event_document(request)
    event = found["event"]
    text = json.dumps(event["payload"], ensure_ascii=False, indent=2) if event else ""
    payload = cut(text, PAYLOAD_CHARACTERS_MAX)
    return await parts_of(request).rendering.page(request, "event.html", **found, payload=payload)


async def _api_session(request: Request) -> Response:
    return JSONResponse(await _session_document(request))


async def _api_turn(request: Request) -> Response:
    return JSONResponse(await _turn_document(request))


async def _api_event(request: Request) -> Response:
    return JSONResponse(await _event_document(request))


ROUTES: list[BaseRoute] = [
    Route("/sessions/{id:id}", _session),
    Route("/sessions/{id:id}/turns/{turn:id}/prompt", _prompt),
    Route("/events/{id:id}", _event),
    Route("/api/sessions/{id:id}", _api_session),
    Route("/api/sessions/{id:id}/turns/{turn:id}", _api_turn),
    Route("/api/events/{id:id}", _api_event),
]
