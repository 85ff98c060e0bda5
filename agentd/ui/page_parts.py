"""What each page works with."""

from dataclasses import dataclass

from starlette.requests import Request

from agentd.ui.acting import Acting
from agentd.ui.live_stream import LiveStream
from agentd.ui.page_reader import PageReader
from agentd.ui.rendering import Rendering


@dataclass(frozen=True)
class PageParts:
    """One process's: what reads, what makes HTML, what acts, what tells open pages."""

    reading: PageReader
    rendering: Rendering
    acting: Acting
    live: LiveStream


def parts_of(request: Request) -> PageParts:
    """Return what the page of a request works with."""
    found = request.app.state.parts
    assert isinstance(found, PageParts)
    return found
