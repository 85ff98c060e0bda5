"""Web pages as their readers see them: title, date and text, without menus and advertisements."""

import logging
from base64 import b64decode

from agentd.errors import ToolError
from agentd.events import Result
from agentd.tools.base import TEXT_CHARACTERS, ToolCall, clean_line
from agentd.tools.charsets import decoded
from agentd.tools.time_limit import TooSlow, time_limit

PAGE_BYTES = 2_000_000  # more is cut off
PAGE_S = 15.0  # for one of these it takes 1 to 2 s
TITLE_CHARACTERS = 200
MARK_CHARACTERS = 100  # kept free for what says that the text was cut
HTML_TYPES = ("", "text/html", "application/xhtml+xml")
TEXT_TYPES = ("application/json", "application/xml", "+json", "+xml")


def read_page(call: ToolCall, url: str, start: int | None) -> Result:
    """Give a page's title, date, and text from character `start` on."""
    found = call.inner("fetcher", "Fetch", {"url": url, "limit": PAGE_BYTES}).value
    given = {key: found[key] for key in ("url", "type", "charset", "data", "cut")}
    return call.inner("hands", "ParsePage", {**given, "start": start or 0})


def parse_page(
    call: ToolCall, url: str, type: str, charset: str, data: str, cut: bool, start: int
) -> Result:
    """Give what these bytes show, in base64, of a page at `url`."""
    if not (type in HTML_TYPES or type.startswith("text/") or type.endswith(TEXT_TYPES)):
        raise ToolError(f"{url} is no page but {type}")
    text = decoded(b64decode(data), charset)
    if "\0" in text:
        raise ToolError(f"{url} is binary")
    title = date = ""
    if type in HTML_TYPES:
        try:
            with time_limit(min(call.left_s, PAGE_S)):
                title, date, text = _readable(text, url)
        except TooSlow as error:
            raise ToolError(f"{url} takes too long to read") from error
    title = clean_line(title, TITLE_CHARACTERS)
    value = {"url": url, "title": title, "date": date, **page_of(text, start)}
    if cut:
        value["more"] = f"only the first {PAGE_BYTES} bytes were fetched"
    return Result(value, trusted=False)


def page_of(text: str, start: int) -> dict[str, object]:
    """Return a long text from a character on, and how to go on; beyond its end the last part."""
    room = TEXT_CHARACTERS - MARK_CHARACTERS
    first = start if start < len(text) or not start else max(0, len(text) - room)
    piece, end = text[first : first + room], first + room
    if first != start:
        piece = f"...[no character {start}; from character {first} on]\n{piece}"
    if end < len(text):
        piece += f"\n...[cut: {len(text) - end} characters; read on with start={end}]"
    return {"start": first, "characters": len(text), "text": piece}


def _readable(html: str, url: str) -> tuple[str, str, str]:
    """Return title, date (as "2026-11-29", or "") and text, as Markdown without links."""
    import trafilatura
    from trafilatura.settings import Document

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # an odd page is no news
    try:
        found = trafilatura.bare_extraction(
            html,
            url,
            include_comments=False,
            include_formatting=True,
            with_metadata=True,
            date_extraction_params={"extensive_search": False, "original_date": True},
        )
        known = found.as_dict() if isinstance(found, Document) else {}
        text = known.get("text") or trafilatura.html2txt(html)
    except Exception as error:  # whatever it stumbles over was written by others
        raise ToolError(f"{url} cannot be read: {type(error).__name__}") from error
    if not text.strip():
        raise ToolError(f"{url} has no text to read; perhaps its scripts would make it")
    return known.get("title") or "", known.get("date") or "", text
