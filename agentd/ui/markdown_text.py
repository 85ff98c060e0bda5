"""Markdown of others as HTML: no HTML of theirs, no images, and links only to where a person goes.

The one place whose HTML is not escaped again.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, table
from markdown_it.token import Token
from markupsafe import Markup

from agentd.clock import with_local_times
from agentd.terminal import plain_lines

SCHEMES = frozenset({"http", "https", "mailto"})
TAB_SPACES = 4
HEADING_MIN = 4  # of a text's first: the page's own stand above it
# Beyond these a text is shown as it is written. Each character can become an element of a list, and
# each row of a table, also an empty one, has all its columns: 1.8 kB became 660 kB.
CHARACTERS_MAX = 40_000
CELLS_MAX = 4_000  # of all tables of one text


def markdown(text: str) -> Markup:
    """Return a text as HTML. What cannot be seen, and would drive something, is written out."""
    shown = plain_lines(with_local_times(text).replace("\r\n", "\n").expandtabs(TAB_SPACES))
    if len(shown) > CHARACTERS_MAX:
        return Markup('<pre class="whole" tabindex="0">{}</pre>').format(shown)
    return Markup(_reader().render(shown))


@cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    reader.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    vars(reader)["validateLink"] = _goes  # in the place of a method, as its documentation has it
    reader.add_render_rule("link_open", _link)
    for name in ("heading_open", "heading_close"):
        reader.add_render_rule(name, _heading)
    reader.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return reader


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a table, as long as there may be more cells."""
    if silent or not table(state, start, end, True):
        return table(state, start, end, silent)
    columns, at = _line(state, start + 1).count("|") + 1, start
    cells: int = state.env.get("cells", 0)
    while cells <= CELLS_MAX and at < end and _line(state, at).strip():
        cells, at = cells + columns, at + 1
    state.env["cells"] = cells
    return cells <= CELLS_MAX and table(state, start, end, silent)


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] : state.eMarks[number]]


def _goes(address: str) -> bool:
    try:
        return urlsplit(address).scheme.lower() in SCHEMES
    except ValueError:
        return False


def _link(self: RendererHTML, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    tokens[at].attrSet("rel", "noreferrer noopener")
    return self.renderToken(tokens, at, options, env)


def _heading(self: RendererHTML, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    level = int(tokens[at].tag[1:])
    tokens[at].tag = f"h{min(6, level + HEADING_MIN - 1)}"
    return self.renderToken(tokens, at, options, env)
