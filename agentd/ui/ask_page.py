"""The question box, the questions of before, and a question with its turns and its answer."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.bus import Bus
from agentd.errors import UsageError
from agentd.events import QUESTION_CHARACTERS_MAX
from agentd.states import WorkerState
from agentd.ui.page_parts import parts_of
from agentd.views.question import ASSISTANT, AT_REST, questions, thread

LISTED = 20  # questions
ANSWERS = (WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF)


async def _box(request: Request) -> Response:
    parts = parts_of(request)
    asked = await parts.reading.call(_asked)
    agents = {one["name"]: one["state"] for one in (await parts.reading.status())["agents"]}
    names = sorted((name for name, state in agents.items() if state in ANSWERS), key=_first)
    assistant = agents.get(ASSISTANT, "not there")
    return await parts.rendering.page(
        request,
        "ask.html",
        asked=asked,
        names=names,
        assistant=assistant,
        default=ASSISTANT,
        most=QUESTION_CHARACTERS_MAX,
    )


async def _question(request: Request) -> Response:
    parts, told = parts_of(request), await _thread(request)
    over = told[-1]["state"] in AT_REST
    return await parts.rendering.page(
        request, "question.html", thread=told, over=over, most=QUESTION_CHARACTERS_MAX
    )


async def _thread(request: Request) -> list[dict[str, Any]]:
    number = request.path_params["id"]
    try:
        return await parts_of(request).reading.call(lambda bus: thread(bus, number))
    except UsageError as error:
        raise HTTPException(404, error.what) from error


async def _api_asked(request: Request) -> Response:
    return JSONResponse(await parts_of(request).reading.call(_asked))


async def _api_question(request: Request) -> Response:
    return JSONResponse(await _thread(request))


def _asked(bus: Bus) -> list[dict[str, Any]]:
    return questions(bus, limit=LISTED)


def _first(name: str) -> tuple[bool, str]:
    return name != ASSISTANT, name


ROUTES: list[BaseRoute] = [
    Route("/ask", _box),
    Route("/ask/{id:id}", _question),
    Route("/api/ask", _api_asked),
    Route("/api/ask/{id:id}", _api_question),
]
