"""What each page works with."""

from dataclasses import dataclass

from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.requests import Request

from agentd.ui.acting import Acting
from agentd.ui.live_stream import LiveStream
from agentd.ui.page_reader import PageReader
from agentd.ui.rendering import Rendering

DIGITS_MAX = 18  # of a number in an address: SQLite has 64 bits


class IdConvertor(IntegerConvertor):
    """Of an address: a number that may be an id. What has more digits is no address of ours."""

    regex = f"[0-9]{{1,{DIGITS_MAX}}}"


register_url_convertor("id", IdConvertor())


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


def number(text: str | None, digits: int = DIGITS_MAX) -> int | None:
    """Return a number that an address or a header gives, None where it is none of these digits."""
    return int(text) if text and text.isdecimal() and len(text) <= digits else None
