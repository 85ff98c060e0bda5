"""A result's title and its text in Markdown, written by code.

What stands in columns is of others: it makes no line, no table, no markup and no link. Links are
only those that a column declares, to addresses of the web that code found.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from agentd.config.columns import Column
from agentd.task_agent.asked_columns import MARKDOWN_MAX, TITLE_MAX
from agentd.task_agent.found import FACT_CHARACTERS, Reference, clean

Row = Mapping[str, Any]
PLACE = re.compile(r"\{([a-z_][a-zA-Z0-9_.]*)(?:=([^{}]*))?\}")  # in a title
PLURAL = re.compile(r"(?<=[^\W\d_])\(([^\W\d_]{1,4})\)")  # as in "{count} mail(s)"
MARKUP = re.compile(r"[\\`*\[\]<>|]|^[#+\-]|(?<=:)/(?=/)|(?<=[wW])\.|@|^\d+(?=[.)])")
LINK_MAX = 2_000  # characters of an address
COUNT, INTEREST = "count", "interest"


def check_title(
    title: str, columns: Mapping[str, Column], *, rows: bool, interests: Sequence[str]
) -> None:
    """Check a title's template.

    Raises:
        ValueError: a place in it is none that a result has.
    """
    labels = {name: column.known for name, column in columns.items() if column.known}
    labels |= {INTEREST: tuple(interests)} if interests else {}
    for name, value in PLACE.findall(title):
        if name.startswith("event."):
            continue
        known = {COUNT, *([INTEREST] if interests else [])} if rows else set(columns)
        if value and name in columns and columns[name].source:
            continue  # a fact may have any value
        if value and value not in labels.get(name, ()):
            what = ", ".join(labels.get(name, ())) or f"only {', '.join(labels) or 'no column'}"
            raise ValueError(f"{{{name}={value}}} counts nothing; there is {what}")
        if not value and name not in known:
            raise ValueError(f"there is no {{{name}}}; write {_listed(known, labels, rows)}")


def _listed(known: set[str], labels: Mapping[str, Sequence[str]], rows: bool) -> str:
    counts = [f"{{{name}={of[0]}}}" for name, of in labels.items()] if rows else []
    return ", ".join([*(f"{{{name}}}" for name in sorted(known)), *counts, "{event.FIELD}"])


def title_of(
    template: str, payload: Mapping[str, Any], rows: Sequence[Row], count: int | None
) -> str:
    """Return a title: one line. `{name}` is a count, or a value of a result's only row.

    `mail(s)` is `mail` where the value before it is 1, else `mails`. `count` is None where there is
    only one row, whose column may have that name.
    """
    last = ""

    def put(place: re.Match[str]) -> str:
        nonlocal last
        name, value, plural = place.groups()
        if plural:
            return "" if last == "1" else plural
        last = value_of(name, value)
        return last

    def value_of(name: str, value: str | None) -> str:
        if value:
            return str(sum(row.get(name) == value for row in rows))
        if name.startswith("event."):
            found = Reference("", tuple(name.split(".")[1:])).within(payload)
        elif name == COUNT and count is not None:
            return str(count)
        elif name == INTEREST:
            return str(sum(row.get(name) is not None for row in rows))
        else:
            found = rows[0].get(name) if rows else None
        return clean("?" if found is None else str(found), FACT_CHARACTERS)

    parts = re.sub(f"{PLACE.pattern}|{PLURAL.pattern}", put, template)
    return clean(parts, TITLE_MAX) or "?"


def default_title(
    name: str, columns: Mapping[str, Column], each: str | None, interests: Sequence[str]
) -> str:
    """Return a title's template for an agent that gives none."""
    known = [(key, column.known) for key, column in columns.items() if column.known]
    if each is None:
        shown = [key for key, column in columns.items() if column.type != "text"][:3]
        return f"{name}: " + ", ".join(f"{{{key}}}" for key in shown or list(columns)[:1])
    if interests:
        return f"{name}: {{count}}, {{interest}} of interest"
    counts = ", ".join(f"{{{key}={label}}} {label}" for key, of in known[:1] for label in of[:4])
    return f"{name}: {{count}}" + (f" ({counts})" if counts else "")


def text_of_rows(names: Sequence[str], rows: Sequence[Row], links: Sequence[Row], more: int) -> str:
    """Return a table of the rows, a list where there is one column; `more` were left out."""
    plain_list = len(names) == 1
    lines = [] if plain_list else [_line(map(_heading, names)), _line("---" for _ in names)]
    end = f"\n\nand {more} more" if more else ""
    size = sum(map(len, lines)) + len(lines)
    for at, (row, link) in enumerate(zip(rows, links, strict=True)):
        cells = [_cell(row, name, link) for name in names]
        line = f"- {cells[0]}" if plain_list else _line(cells)
        size += len(line) + 1
        if size > MARKDOWN_MAX - 40:
            end = f"\n\nand {more + len(rows) - at} more"
            break
        lines.append(line)
    return "\n".join(lines) + end


def text_of_one(names: Sequence[str], row: Row, link: Row) -> str:
    """Return a list of one row's columns."""
    lines = [f"- {_heading(name)}: {_cell(row, name, link)}" for name in names]
    return "\n".join(lines)[:MARKDOWN_MAX]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(name: str) -> str:
    return name.replace("_", " ")


def inert(text: str, limit: int = FACT_CHARACTERS) -> str:
    """Return what others wrote as one line of Markdown that means nothing but its words."""
    return MARKUP.sub(lambda match: f"\\{match[0]}", clean(text, limit))


def _cell(row: Row, name: str, links: Row) -> str:
    value = row.get(name)
    words = {None: "", True: "yes", False: "no"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    shown = inert(text)
    if shown and name in row.get("unsure", ()):
        shown += "?"
    address = links.get(name)
    return f"[{shown or 'link'}]({address})" if address else shown


def address_of(value: Any) -> str | None:
    """Return an address of the web as Markdown takes it, None where it is none."""
    if not isinstance(value, str) or len(value) > LINK_MAX:
        return None
    try:
        parts = urlsplit(value.strip())
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        return None
    return (
        quote(parts.geturl(), safe="/:?#=&%~+,;@!$*'._-[]").replace("[", "%5B").replace("]", "%5D")
    )
