"""Today: what waits for an answer, and what agents came to; and one result by itself."""

from functools import cache, partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.bus import Bus
from agentd.config.agent import AgentConfig
from agentd.config.agent_files import examples_file
from agentd.paths import Paths
from agentd.ui.page_parts import number, parts_of
from agentd.ui.shown_values import day
from agentd.views.agent_page import read_file
from agentd.views.corrections import Examples, corrections, examples_in
from agentd.views.open_questions import exact, open_questions
from agentd.views.result_list import result, results

PAGE = 20  # results
LABELS_MAX = 200  # rows of a result whose labels can be corrected by a click
LISTED_LABELS = 6  # in the list: one more than `card` has there
SHOWN_CHARACTERS = 1_500  # of a result's text in the list: a page has to be quick
WORDS_MAX = 500  # characters


async def _today(request: Request) -> Response:
    parts, asked = parts_of(request), _asked(request)
    if asked["words"]:
        await parts.reading.index()
    paths = parts.reading.paths

    def read(bus: Bus) -> dict[str, Any]:
        found = results(bus, **asked, limit=PAGE + 1)
        names = sorted({row.name for row in bus.agents.list()} | {one["agent"] for one in found})
        files = cache(partial(_files, paths))  # many results are of few agents
        labelled = [_labelled(one, *files(one["agent"]), LISTED_LABELS) for one in found[:PAGE]]
        return {
            "questions": [shown_question(one) for one in open_questions(bus)],
            "results": [
                {**one, **_short(one["text"]), "day": day(one["created_at"])} for one in labelled
            ],
            "older": found[PAGE - 1]["id"] if len(found) > PAGE else None,
            "agents": names,
            "empty": not bus.agents.present(),
        }

    values = await parts.reading.call(read)
    return await parts.rendering.page(request, "today.html", asked=asked, **values)


async def _result(request: Request) -> Response:
    parts, number = parts_of(request), request.path_params["id"]
    paths = parts.reading.paths

    def read(bus: Bus) -> dict[str, Any] | None:
        found = result(bus, number)
        return found and _labelled(found, *_files(paths, found["agent"]), LABELS_MAX)

    found = await parts.reading.call(read)
    if found is None:
        raise HTTPException(404, "There is no such result, or not any more.")
    return await parts.rendering.page(request, "result.html", one=found, most=LABELS_MAX)


async def _api_results(request: Request) -> Response:
    parts, asked = parts_of(request), _asked(request)
    if asked["words"]:
        await parts.reading.index()
    return JSONResponse(await parts.reading.call(lambda bus: results(bus, **asked, limit=PAGE)))


async def _api_questions(request: Request) -> Response:
    return JSONResponse(await parts_of(request).reading.call(open_questions))


def shown_question(one: dict[str, Any]) -> dict[str, Any]:
    """Return what waits with its arguments as lines, exactly."""
    return {**one, "lines": {name: exact(value) for name, value in one["args"].items()}}


def _asked(request: Request) -> dict[str, Any]:
    """Return which results a request asks for."""
    given = request.query_params
    return {
        "words": given.get("words", "").strip()[:WORDS_MAX],
        "agent": given.get("agent") or None,
        "before": number(given.get("before")),
    }


def _files(paths: Paths, agent: str) -> tuple[AgentConfig | None, Examples]:
    """Return what an agent's file says, and what its person corrected before."""
    _, config, _ = read_file(paths.agents_d / f"{agent}.toml")
    return config, {} if config is None else examples_in(examples_file(agent, paths))


def _labelled(
    one: dict[str, Any], config: AgentConfig | None, examples: Examples, most: int
) -> dict[str, Any]:
    """Return a result with the labels of its first rows that a person may correct."""
    if config is None:
        return {**one, "labels": []}
    return {**one, "labels": corrections(config, one["id"], one["payload"], examples, most=most)}


def _short(text: str) -> dict[str, Any]:
    """Return the beginning of a long text, up to the end of a line, and whether there is more."""
    if len(text) <= SHOWN_CHARACTERS:
        return {"text": text, "more": False}
    cut = text[:SHOWN_CHARACTERS]
    return {"text": cut[: cut.rfind("\n")] if "\n" in cut else f"{cut}…", "more": True}


ROUTES: list[BaseRoute] = [
    Route("/", _today),
    Route("/results/{id:id}", _result),
    Route("/api/results", _api_results),
    Route("/api/questions", _api_questions),
]
