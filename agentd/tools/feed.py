"""Feeds, RSS and Atom: what is new since the agent looked last.

What it saw, it remembers under `feed:URL` once its session ends: the entries' ids, and what lets
the server say that nothing changed. A session that was cut off sees them again: none is lost.
"""

import hashlib
import html
import io
import re
import time
from base64 import b64decode
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin

from agentd.errors import ToolError
from agentd.events import Result
from agentd.secret_rules import hide
from agentd.tools.base import TEXT_CHARACTERS, ToolCall, clean_line
from agentd.tools.charsets import decoded
from agentd.tools.time_limit import TooSlow, time_limit

FEED_BYTES = 4_000_000
FEED_S = 15.0
ENTRIES_MAX = 500  # of one feed; ids that are remembered
ITEMS_MAX = 50  # new ones in one result
TITLE_CHARACTERS = 200
LINK_CHARACTERS = 300
SUMMARY_CHARACTERS = 300
SUMMARY_HTML = 8_000  # characters of which a summary is made
ID_DIGITS = 16  # of a digest
TAG = re.compile(r"<[^<>]*>")


def read_feed(call: ToolCall, url: str) -> Result:
    """Give the items that are new since last time. The first time none is: all count as known.

    What finds no room is not remembered, so it comes the next time.
    """
    key, shown = f"feed:{url}", hide(url)  # an address may hold a key
    known = call.session.memory.get(key) or {}
    tags = {name: known.get(name) for name in ("etag", "modified")}
    found = call.inner("fetcher", "Fetch", {"url": url, "limit": FEED_BYTES, **tags}).value
    if found["status"] == 304:
        return Result({"url": shown, "title": known.get("title", ""), "items": []}, trusted=False)
    if found["cut"]:
        raise ToolError(f"{shown} has more than {FEED_BYTES} bytes")
    given = {name: found[name] for name in ("url", "charset", "data")}
    feed = call.inner("hands", "ParseFeed", given).value
    ids = known.get("ids")
    new = [entry for entry in feed["entries"] if ids is not None and entry["id"] not in ids]
    items = _fitting(new)
    value: dict[str, Any] = {"url": shown, "title": feed["title"], "items": items}
    if ids is None:
        value["first"] = f"read for the first time: its {len(feed['entries'])} items are not new"
    if left := len(new) - len(items):
        value["more"] = f"{left} further new items come the next time"
    waiting = {entry["id"] for entry in new[: len(new) - len(items)]}
    now = [entry["id"] for entry in feed["entries"] if entry["id"] not in waiting]
    seen = {"ids": list(dict.fromkeys((*now, *(ids or ()))))[:ENTRIES_MAX], "title": feed["title"]}
    if not left:
        seen |= {name: found[name] for name in tags if found[name]}
    return Result(value, trusted=False, remember={key: seen})


def _fitting(new: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the oldest of the new entries, as far as a result has room, in the feed's order.

    Feeds list the newest first, and drop the oldest.
    """
    items: list[dict[str, str]] = []
    size = 0
    for entry in reversed(new[-ITEMS_MAX:]):
        size += sum(map(len, entry.values()))
        if size > TEXT_CHARACTERS:
            break
        items.insert(0, {name: text for name, text in entry.items() if name != "id"})
    return items


def parse_feed(call: ToolCall, url: str, charset: str, data: str) -> Result:
    """Give a feed's title and entries, each with an id, of these bytes in base64."""
    import feedparser

    text, shown = decoded(b64decode(data), charset), hide(url)
    # It is not to guess the encoding, and, given a stream, it opens and fetches nothing.
    told = {"content-type": "application/xml; charset=utf-8"}
    try:
        with time_limit(min(call.left_s, FEED_S)):
            feed = feedparser.parse(
                io.BytesIO(text.encode()), response_headers=told, resolve_relative_uris=False
            )
            entries = [_entry(entry, url) for entry in feed.entries[:ENTRIES_MAX]]
    except TooSlow as error:
        raise ToolError(f"{shown} takes too long to read") from error
    except Exception as error:  # whatever it stumbles over was written by others
        raise ToolError(f"{shown} cannot be read: {type(error).__name__}") from error
    if not feed.get("version") and not entries:
        raise ToolError(f"{shown} is no feed")
    title = clean_line(_plain(feed.feed.get("title", "")), TITLE_CHARACTERS)
    unique = {entry["id"]: entry for entry in reversed(entries)}  # the first of an id stays
    return Result({"title": title, "entries": list(unique.values())[::-1]}, trusted=False)


def _entry(entry: Any, url: str) -> dict[str, str]:
    """Return what an entry says, its texts without markup and cut."""
    link = _link(url, str(entry.get("link", ""))[:LINK_CHARACTERS])
    title = clean_line(_plain(entry.get("title", "")), TITLE_CHARACTERS)
    told = _plain(entry.get("summary", ""))
    summary = "" if told == title else clean_line(told, SUMMARY_CHARACTERS)
    moment = entry.get("published_parsed") or entry.get("updated_parsed")
    own = entry.get("id") or entry.get("link") or f"{title}\n{summary}"
    return {
        "id": hashlib.sha256(str(own).encode("utf-8", "replace")).hexdigest()[:ID_DIGITS],
        "title": title,
        "link": link,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment) if moment else "",
        "summary": summary,
    }


def _link(url: str, link: str) -> str:
    """Return a whole link; "" for none, and for one that leads elsewhere than to a page."""
    with suppress(ValueError):
        if link and (whole := urljoin(url, link)).startswith(("http://", "https://")):
            return whole
    return ""


def _plain(text: object) -> str:
    """Return HTML that feedparser has cleaned as one line of plain text."""
    return " ".join(html.unescape(TAG.sub(" ", str(text)[:SUMMARY_HTML])).split())
