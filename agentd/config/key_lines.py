"""Where in a TOML file a key stands: for errors, and for the one key that commands write.

tomllib tells no lines. Read here is what people write: tables, dotted keys, values over several
lines. A line that is not understood is passed over.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence

_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
QUOTES = re.compile(r"\"\"\"|'''")
ENABLED = re.compile(r"([ \t]*enabled[ \t]*=[ \t]*)(?:true|false)\b")

Names = tuple[str, ...]


def line_of(text: str, wanted: Sequence[int | str]) -> int | None:
    """Return the line of a key, from 1; of what it stands in where it is missing; None: of neither.

    `wanted`: its path, with the indexes of lists' items.
    """
    names = tuple(str(part) for part in wanted)
    best, line = 0, None
    for number, path in _keys(text):
        common = min(len(path), len(names))  # `a.b = 1` begins `a`, too
        common = common if path[:common] == names[:common] else 0
        if common > best:
            best, line = common, number
    return line


def with_enabled(text: str, on: bool) -> str | None:
    """Return a file's text with `enabled` at its top as wanted, all else as it was.

    None: it cannot be told where that stands, and a person has to write it.
    """
    wanted = {**tomllib.loads(text), "enabled": on}
    word = "true" if on else "false"
    lines = text.split("\n")
    for number, line in enumerate(lines):
        changed = ENABLED.sub(rf"\g<1>{word}", line, count=1) if ENABLED.match(line) else None
        if changed and _says(found := _joined(lines, number, changed, 1), wanted):
            return found
    # Before the first line that is neither empty nor a comment: above every table.
    first = next((n for n, line in enumerate(lines) if line.strip()[:1] not in ("", "#")), 0)
    end = "\r" if text.count("\r\n") else ""
    added = _joined(lines, first, f"enabled = {word}{end}", 0)
    return added if _says(added, wanted) else None


def _joined(lines: Sequence[str], at: int, line: str, replaced: int) -> str:
    return "\n".join((*lines[:at], line, *lines[at + replaced :]))


def _says(text: str, wanted: object) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _keys(text: str) -> Iterator[tuple[int, Names]]:
    """Yield each table's and each key's line and path, in order."""
    table: Names = ()
    counts: dict[Names, int] = {}  # of the tables in a list of tables
    quote = ""
    for number, line in enumerate(text.split("\n"), 1):
        inside, quote = quote, _open_after(line, quote)
        if inside:
            continue
        if found := HEADER.match(line):
            table = _parts(found[2])
            if found[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            yield number, table
        elif found := KEY.match(line):
            yield number, (*table, *_parts(found[1]))


def _open_after(line: str, quote: str) -> str:
    """Return the quotes of a text over several lines that is open after this line."""
    for found in QUOTES.finditer(line):
        if not quote:
            quote = found[0]
        elif quote == found[0]:
            quote = ""
    return quote


def _parts(dotted: str) -> Names:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))
