"""The model: what is loaded and its memory, and how it was used, as small charts."""

import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.logs.newest import stamp
from agentd.paths import Paths
from agentd.process.jobs import in_thread
from agentd.ui.bar_chart import BarChart
from agentd.ui.page_parts import parts_of
from agentd.views.machine_use import MachineUse
from agentd.views.model_use import MODEL, SPANS, Span, model_use

# For how long a look at the log holds where nothing was logged since, and where something was.
RESTS_S: dict[Span, float] = {"hour": 60.0, "day": 900.0}
FRESH_S: dict[Span, float] = {"hour": 5.0, "day": 60.0}
_recent: dict[tuple[Path, Span], tuple[float, str, dict[str, Any]]] = {}


def _span(request: Request) -> Span:
    return "day" if request.query_params.get("span") == "day" else "hour"


async def _document(request: Request) -> dict[str, Any]:
    reading = parts_of(request).reading
    before = await reading.status(use=True)
    use = await in_thread(_use, reading.paths, _span(request))
    status = await reading.status(use=True)
    model = status["model"]
    return {"model": {**model, **MachineUse(before, status).of(model.get("pid"))}, "use": use}


def _use(paths: Paths, span: Span) -> dict[str, Any]:
    """Return `model_use`, not read anew at each look of an open page: a day may be of megabytes."""
    now, seen = time.monotonic(), stamp([paths.log(MODEL)])
    kept = _recent.get((paths.logs, span))
    if kept is not None:
        at, before, use = kept
        if now - at < (RESTS_S[span] if seen == before else FRESH_S[span]):
            return use
    use = model_use(paths, span)
    _recent[paths.logs, span] = (now, seen, use)
    return use


async def _model(request: Request) -> Response:
    told = await _document(request)
    return await parts_of(request).rendering.page(
        request, "model.html", **told, charts=_charts(told["use"]), spans=list(SPANS)
    )


def _charts(use: dict[str, Any]) -> list[BarChart]:
    samples = use["samples"]
    moments = [sample["at"] for sample in samples]

    def spread(title: str, key: str) -> BarChart:
        high = [sample[key] and sample[key]["high"] for sample in samples]
        middle = [sample[key] and sample[key]["middle"] for sample in samples]
        return BarChart(title, "s", moments, high, middle)

    def single(title: str, unit: str, key: str, times: float = 1) -> BarChart:
        values = [None if s[key] is None else s[key] * times for s in samples]
        return BarChart(title, unit, moments, values)

    return [
        single("Requests", "", "requests"),
        spread("Wait for a slot", "queue_s"),
        single("Requests at once", "", "batch"),
        spread("Time to the first token", "first_token_s"),
        single("Tokens a second, of each answer", "", "tokens_per_s"),
        single("Prompt known from before", "%", "cached", 100),
    ]


async def _api_model(request: Request) -> Response:
    return JSONResponse(await _document(request))


ROUTES: list[BaseRoute] = [Route("/model", _model), Route("/api/model", _api_model)]
