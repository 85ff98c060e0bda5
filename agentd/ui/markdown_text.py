"""Markdown of others as HTML: no HTML of theirs, no images, and links only to where a person goes.

The one place whose HTML is not escaped again.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from agentd.terminal import plain_lines

SCHEMES = frozenset({"http", "https", "mailto"})
TAB_SPACES = 4
HEADING_MIN = 4  # of a text's first: the page's own stand above it


def markdown(text: str) -> Markup:
    """Return a text as HTML. What cannot be seen, and would drive something, is written out."""
    return Markup(_reader().render(plain_lines(text.replace("\r\n", "\n").expandtabs(TAB_SPACES))))


@cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    vars(reader)["validateLink"] = _goes  # in the place of a method, as its documentation has it
    reader.add_render_rule("link_open", _link)
    for name in ("heading_open", "heading_close"):
        reader.add_render_rule(name, _heading)
    reader.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return reader


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
