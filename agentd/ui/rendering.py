"""HTML of templates. All that is shown is others' text: escaped, and nothing in it drives anything.

Each value goes through `plain`: control characters and marks of direction are shown, not obeyed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from agentd.errors import AgentdError
from agentd.process.jobs import in_thread
from agentd.terminal import duration, plain_lines
from agentd.ui.access import SEEN, Access, shown_cookie
from agentd.ui.acting import Acting
from agentd.ui.markdown_text import markdown
from agentd.ui.shown_values import amount, clock, coded, day, took, when

PAGES = (
    ("/", "Today"),
    ("/agents", "Agents"),
    ("/ask", "Ask"),
    ("/model", "Model"),
    ("/log", "Log"),
)
HERE = Path(__file__).parent


class Rendering:
    """Renders templates with what every page has: the form's token, and where it is."""

    def __init__(self, access: Access, acting: Acting) -> None:
        self._access, self._acting = access, acting
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_clean,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            **{"when": when, "day": day, "clock": clock, "took": took, "amount": amount},
            **{"lasting": duration, "markdown": markdown, "coded": coded},
        )

    async def page(
        self, request: Request, template: str, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page of a template, which finds `values`, `token`, `path` and `here`."""
        query = [(k, v) for k, v in request.query_params.multi_items() if k != "said"]
        given = {
            "token": self._access.form_token(shown_cookie(request.scope)),
            "path": request.url.path,
            "seen": request.scope[SEEN],
            "here": f"{request.url.path}?{urlencode(query)}" if query else request.url.path,
            "pages": PAGES,
            "said": self._acting.take(request.query_params.get("said", "")),
        }

        def rendered() -> str:
            return self._environment.get_template(template).render(values, **given)

        # In a thread: however long that takes, the process is alive, and answers others.
        return HTMLResponse(await in_thread(rendered), status)

    def holds(self, request: Request, form: Mapping[str, str]) -> bool:
        """Whether a form is one of ours."""
        return form.get("token") == self._access.form_token(shown_cookie(request.scope))

    async def error(self, request: Request, error: AgentdError, status: int) -> HTMLResponse:
        """Return the page of an error."""
        return await self.page(request, "error.html", status, error=error.document())


def _clean(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, Markup) else plain_lines(str(value))
