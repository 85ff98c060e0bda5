"""A mail, from its bytes to what a person reads of it. Whoever wrote it may mean harm.

Its parts are split here, a few deep and in linear time: the standard library's parser recurses as
deep as a mail says, and holds each line against each part that is open. Single headers and the
encodings of parts are the standard library's. Nothing that is attached is opened.
"""

import hashlib
import html
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import getaddresses, parsedate_to_datetime
from itertools import islice
from typing import Any

from agentd.tools.base import clean_line, cut_text
from agentd.tools.charsets import ENCODINGS
from agentd.tools.mail import MESSAGE_BYTES

HEAD_BYTES = 64_000
FIELD_CHARACTERS = 2_000  # read of one header
SHOWN_CHARACTERS = 200  # of a subject, a name, an address
RECIPIENTS = 5
TEXT_CHARACTERS = 1_500
DEPTH = 8  # parts within parts
PARTS = 40
ATTACHMENTS = 10
KEY_DIGITS = 16  # of a mail's key: 64 bits
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
HIDDEN = re.compile(r"display\s*:\s*none|\shidden[\s=>]", re.IGNORECASE)
UNSHOWN = frozenset({"script", "style", "title", "template", "textarea", "select"})
VOID = frozenset({"img", "input", "meta", "link", "br", "hr", "area", "base", "col", "wbr"})
LINES = frozenset({"br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote"})


def read_message(data: bytes) -> dict[str, Any]:
    """Return what a mail says, and its key; the bytes may be cut off anywhere.

    A date is the sender's word, in ISO 8601, or "". A mail that cannot be read has a `problem`.
    """
    data = data[:MESSAGE_BYTES].replace(b"\r\n", b"\n")
    head, _ = _split(data)
    told: dict[str, Any] = {}
    try:
        told |= {
            "from": _addresses(head, "from", 1),
            "to": _addresses(head, "to", RECIPIENTS),
            "subject": _line(_decoded(_field(head, "subject"))),
            "date": _date(head),
        }
        text, attachments = _content(data)
        told |= {"text": text, "attachments": attachments}
    # The library raises all sorts of things over a mail that was made for it (RecursionError,
    # IndexError, binascii.Error). One such mail must not keep the others from being read.
    except Exception as error:
        told = {**unreadable(f"cannot be read: {type(error).__name__}"), **told}
    return {**told, "key": key_of(data)}


def unreadable(why: str) -> dict[str, Any]:
    """Return what is told of a mail that nothing can be said of."""
    texts = dict.fromkeys(("from", "to", "subject", "date", "text"), "")
    return {**texts, "attachments": [], "problem": why, "key": digest(why.encode())}


def key_of(data: bytes) -> str:
    """Return what tells a mail from others: its Message-ID, or else all of it, as a digest."""
    head = data[:HEAD_BYTES].replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    named = re.search(rb"(?im)^message-id:\s*(<[^>\n]*>)", head)
    return digest(named[1] if named else data)


def digest(data: bytes) -> str:
    """Return a short key of what may be long, and is others' words."""
    return hashlib.sha256(data).hexdigest()[:KEY_DIGITS]


def _split(data: bytes) -> tuple[Message, bytes]:
    """Return the head of a mail or a part, and what follows it."""
    head, _, body = (b"", b"", data[1:]) if data[:1] == b"\n" else data.partition(b"\n\n")
    return BytesHeaderParser().parsebytes(head[:HEAD_BYTES]), body


def _field(head: Message, name: str) -> str:
    """Return the beginning of a header as it is written; bytes that are no ASCII as UTF-8."""
    text = next((str(value) for key, value in head.raw_items() if key.lower() == name), "")
    return text[:FIELD_CHARACTERS].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _decoded(text: str) -> str:
    """Return a header with its encoded words (RFC 2047) as they are meant."""
    with suppress(HeaderParseError, ValueError):
        return "".join(
            piece
            if isinstance(piece, str)
            else piece.decode(_encoding(charset) if charset else "raw-unicode-escape", "replace")
            for piece, charset in decode_header(text)
        )
    return text


def _encoding(charset: str) -> str:
    return ENCODINGS.get(charset.partition("*")[0].lower(), "utf-8")


def _addresses(head: Message, name: str, most: int) -> str:
    """Return who stands in a header as `Name <address>`, the first few of them."""
    found = [
        (_within(_decoded(person)), _within(address))
        for person, address in getaddresses([_field(head, name)])
        if address
    ]
    texts = [f"{person} <{address}>" if person else address for person, address in found[:most]]
    more = [f"{len(found) - most} more"] if len(found) > most > 1 else []
    return ", ".join([*texts, *more])


def _within(text: str) -> str:
    """Return a name without what could make it look like an address beside the real one."""
    return _line(re.sub(r"[<>\"]", "", text))


def _line(text: str) -> str:
    return " ".join(clean_line(text, SHOWN_CHARACTERS).split())


def _date(head: Message) -> str:
    with suppress(ValueError, TypeError, OverflowError, IndexError):
        found: datetime = parsedate_to_datetime(_field(head, "date"))
        return found.isoformat()
    return ""


def _content(data: bytes) -> tuple[str, list[str]]:
    """Return a mail's text, and the names of what is attached."""
    texts: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    attachments: list[str] = []
    for head, body in islice(_leaves(data, DEPTH), PARTS):
        kind, name = head.get_content_type(), head.get_filename() or ""
        if name or kind not in texts or head.get_content_disposition() == "attachment":
            attachments.append(_line(_decoded(name[:FIELD_CHARACTERS]) or kind))
        else:
            texts[kind].append(_text(head, body))
    plain = "\n".join(texts["text/plain"])
    text = _tidy(plain) or _tidy("\n".join(map(without_tags, texts["text/html"])))
    if len(attachments) > ATTACHMENTS:
        attachments[ATTACHMENTS:] = [f"{len(attachments) - ATTACHMENTS} more"]
    return cut_text(text, TEXT_CHARACTERS), attachments


def _leaves(data: bytes, depth: int) -> Iterator[tuple[Message, bytes]]:
    """Give each part that holds no others; what is `depth` deep is not looked into."""
    head, body = _split(data)
    boundary = head.get_boundary() if head.get_content_maintype() == "multipart" else None
    if not (boundary and depth):
        yield head, body
        return
    line = rb"(?:^|\n)--" + re.escape(boundary.encode("ascii", "surrogateescape"))
    within = re.split(line + rb"--[ \t]*(?=\n|$)", body, maxsplit=1)[0]
    for part in re.split(line + rb"[ \t]*(?=\n|$)", within)[1:]:
        yield from _leaves(part[1:], depth - 1)


def _text(head: Message, body: bytes) -> str:
    head.set_payload(body.decode("ascii", "surrogateescape"))
    data = head.get_payload(decode=True)
    charset = head.get_content_charset() or ""
    return data.decode(_encoding(charset), "replace") if isinstance(data, bytes) else ""


def without_tags(text: str) -> str:
    """Return the text of a page of HTML as far as it is shown, in linear time."""
    found, at = list[str](), 0
    while (start := text.find("<", at)) >= 0:
        found.append(text[at:start])
        if text.startswith("<!--", start):
            at = _after(text, "-->", start)
        elif (tag := TAG.match(text, start)) is None:
            found.append("<")
            at = start + 1
        else:
            name, at = tag[2].lower(), _after(text, ">", start)
            found.append("\n" if name in LINES else " " if name == "td" else "")
            shut = name in UNSHOWN or (name not in VOID and HIDDEN.search(text, start, at))
            if shut and not tag[1]:
                end = re.compile(rf"</{name}\b", re.IGNORECASE).search(text, at)
                at = end.start() if end else len(text)
    return html.unescape("".join([*found, text[at:]]))


def _after(text: str, mark: str, start: int) -> int:
    end = text.find(mark, start)
    return end + len(mark) if end >= 0 else len(text)


def _tidy(text: str) -> str:
    """Return lines without what does not print, and no more than one empty one in between."""
    lines = ("".join(c if c.isprintable() else " " for c in line) for line in text.split("\n"))
    tidy = "\n".join(" ".join(line.split()) for line in lines)
    return re.sub(r"\n{3,}", "\n\n", tidy).strip()
