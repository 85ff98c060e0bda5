"""PDF files: the text of their pages. Text that a reader does not see is told apart.

Such text may be meant for a model alone ("recommend this paper"), or lie under the picture of a
scanned page. It is what is drawn invisibly (render mode 3), in white, or smaller than 2 points.
"""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from math import hypot
from typing import Any

from agentd.errors import ToolError
from agentd.events import Result
from agentd.tools.base import TEXT_CHARACTERS, ToolCall, clean_line, cut_text
from agentd.tools.files import read_listed
from agentd.tools.time_limit import TooSlow, time_limit

FILE_BYTES = 32_000_000
PDF_S = 20.0  # for all pages of a call; one takes 10 to 100 ms
STREAM_BYTES = 20_000_000  # of one, unpacked; a page of text has some thousands
TITLE_CHARACTERS = 200
SMALL_POINTS = 2.0
PAGES = re.compile(r"(\d{1,6})(-(\d{0,6}))?")
SHOWING = (b"Tj", b"TJ", b"'", b'"')
INVISIBLE = 3  # a text's render mode: neither filled nor stroked
# By the operator that sets the colour of what is filled; b"cs" sets another space, and black.
LIGHT = [[1.0], [1.0] * 3, [0.0] * 4]
WHITE = {b"g": LIGHT, b"rg": LIGHT, b"k": LIGHT, b"sc": LIGHT, b"scn": LIGHT, b"cs": []}
LIMITS: dict[str, Any] = {
    f"{kind}_maximum_output_length": STREAM_BYTES
    for kind in ("zlib", "lzw", "run_length", "brotli", "array_based_stream")
}
LIMITS["stream_parsing_work_maximum_count"] = 400_000  # 3 s; a page of text has some ten thousand


def read_pdf(call: ToolCall, path: str, pages: str | None) -> Result:
    """Give the text of these pages ("3", "2-5", "4-"), as far as a result has room."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # an odd file is no news
    first, last = _range(pages or "1-")
    place, data = read_listed(call, path, FILE_BYTES)
    texts: list[str] = []
    title, count, size = "", 0, 0
    try:
        with time_limit(min(call.left_s, PDF_S)), pypdf.apply_configuration(**LIMITS):
            reader, count = _open(data, place.name)
            last = min(last, count)
            title = _title(reader)
            for number in range(first, last + 1):
                call.check()
                texts.append(f"[page {number} of {count}]\n{_page(reader, number)}")
                size += len(texts[-1]) + 2
                if size > TEXT_CHARACTERS:
                    break
    except TooSlow as error:
        if not texts:
            raise ToolError(f"{place.name} takes too long to read") from error
    if first > count:
        raise ToolError(f"{place.name} has {count} pages, and no page {first}")
    if size > TEXT_CHARACTERS and len(texts) > 1:
        texts.pop()
    text = cut_text("\n\n".join(texts))
    if (following := first + len(texts)) <= last:
        text += f"\n...[cut: pages {following} to {last}; read on with pages={following}-{last}]"
    return Result({"path": place.name, "title": title, "pages": count, "text": text}, trusted=False)


def _range(pages: str) -> tuple[int, int]:
    found = PAGES.fullmatch(pages.strip())
    if found is None:
        raise ToolError(f'pages are written as "3", "2-5" or "4-", not {clean_line(pages, 20)!r}')
    first = int(found[1])
    last = first if found[2] is None else int(found[3] or 999_999)
    if not 1 <= first <= last:
        raise ToolError("pages count from 1, the first one first")
    return first, last


def _open(data: bytes, name: str) -> tuple[Any, int]:
    """Return a reader of the file, and the number of its pages.

    Raises:
        ToolError: it is no PDF, or is locked.
    """
    import pypdf

    try:
        reader = pypdf.PdfReader(BytesIO(data))
        if not (reader.is_encrypted and not reader.decrypt("")):
            return reader, len(reader.pages)
    except Exception as error:  # whatever it stumbles over was written by others
        raise ToolError(f"{name} cannot be read as a PDF: {_words(error)}") from error
    raise ToolError(f"{name} is locked with a password; save a copy without one")


def _words(error: Exception) -> str:
    return clean_line(str(error) or type(error).__name__, TITLE_CHARACTERS)


def _title(reader: Any) -> str:
    with suppress(Exception):
        return clean_line(str(reader.metadata.title or ""), TITLE_CHARACTERS)
    return ""


def _page(reader: Any, number: int) -> str:
    """Return a page's text, and after it what a reader does not see. One that is odd says so."""
    try:
        page = reader.pages[number - 1]
        seen, unseen = _Sight(hidden=False), _Sight(hidden=True)
        text = str(page.extract_text(**seen.visitors)).strip()
        if seen.left_out:
            hidden = " ".join(str(page.extract_text(**unseen.visitors)).split())
            text += f"\n[hidden text: {hidden.replace(']', ')')}]"  # it ends where we say
    except Exception as error:
        return f"[cannot be read: {_words(error)}]"
    return text


@dataclass(frozen=True)
class _Pen:
    """How text is drawn now."""

    mode: int = 0
    white: bool = False
    points: float = 12.0


class _Sight:
    """Follows how a page's text is drawn, and leaves out what is hidden; or all else."""

    def __init__(self, *, hidden: bool) -> None:
        self.left_out = False
        self.visitors = {
            "visitor_operand_before": self._before,
            "visitor_operand_after": self._after,
        }
        self._hidden = hidden
        self._pen = _Pen()
        self._saved: list[_Pen] = []
        self._forms: list[tuple[int, _Pen]] = []  # that are being drawn, with what was before

    def _before(self, operator: bytes, operands: Any, cm: list[float], tm: list[float]) -> None:
        """Take note of an operator of the page's content, before it is carried out."""
        pen = self._pen
        with suppress(TypeError, ValueError, IndexError):
            if operator == b"Do":
                self._forms.append((len(self._saved), pen))
            elif operator == b"q":
                self._saved.append(pen)
            elif operator == b"Q" and len(self._saved) > (self._forms[-1][0] if self._forms else 0):
                self._pen = self._saved.pop()
            elif operator == b"Tr":
                self._pen = replace(pen, mode=int(operands[0]))
            elif operator == b"Tf":
                self._pen = replace(pen, points=float(operands[1]))
            elif operator in WHITE:
                self._pen = replace(pen, white=[*map(float, operands)] in WHITE[operator])
            elif operator in SHOWING and self._is_hidden(cm, tm) != self._hidden:
                self.left_out = True
                operands.clear()

    def _after(self, operator: bytes, operands: Any, cm: list[float], tm: list[float]) -> None:
        if operator == b"Do":
            depth, self._pen = self._forms.pop()
            del self._saved[depth:]

    def _is_hidden(self, cm: list[float], tm: list[float]) -> bool:
        pen = self._pen
        points = abs(pen.points) * hypot(tm[2], tm[3]) * hypot(cm[2], cm[3])
        return pen.mode == INVISIBLE or pen.white or points < SMALL_POINTS
