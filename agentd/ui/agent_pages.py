"""All agents on one page, and a page for each."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.ui.page_parts import parts_of
from agentd.ui.today import shown_question
from agentd.views.agent_page import agent_page
from agentd.views.overview import add_use, overview_of
from agentd.views.permission_words import sandbox_words


async def _overview(request: Request, only: str | None = None) -> dict[str, Any]:
    """Return the overview of all agents, or of `only` this one."""
    reading = parts_of(request).reading
    daemon = await reading.status(use=True)
    document = await reading.call(lambda bus: overview_of(daemon, reading.paths, bus, only=only))
    add_use(document, daemon, await reading.status(use=True))
    return document


async def _agent(request: Request) -> dict[str, Any]:
    """Return one agent's document. Raises HTTPException: there is none of this name."""
    reading, name = parts_of(request).reading, request.path_params["name"]
    overview = await _overview(request, only=name)
    if not overview["agents"]:
        raise HTTPException(404, "There is no agent of this name.")
    (agent,) = overview["agents"]
    document = await reading.call(lambda bus: agent_page(bus, reading.paths, agent))
    return {**document, "sandbox": sandbox_words(overview["sandbox"])}


async def _agents(request: Request) -> Response:
    overview = await _overview(request)
    return await parts_of(request).rendering.page(request, "agents.html", overview=overview)


async def _agent_page(request: Request) -> Response:
    found = await _agent(request)
    questions = [shown_question(one) for one in found["questions"]]
    return await parts_of(request).rendering.page(
        request, "agent.html", agent={**found, "questions": questions}
    )


async def _api_overview(request: Request) -> Response:
    return JSONResponse(await _overview(request))


async def _api_agent(request: Request) -> Response:
    return JSONResponse(await _agent(request))


ROUTES: list[BaseRoute] = [
    Route("/agents", _agents),
    Route("/agents/{name}", _agent_page),
    Route("/api/overview", _api_overview),
    Route("/api/agents/{name}", _api_agent),
]
