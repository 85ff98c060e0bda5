"""The documentation's pages: their text, their code blocks, their links."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "README.md"
# The folder of each page. A page that is not listed here is nobody's.
FOLDERS = (
    "",
    "agentd",
    "agentd/model_server",
    "agentd/sandbox",
    "agentd/testing",
    "agentd/ui",
    "agents",
    "config",
    "launchd",
    "tests/bench",
)
# Further pages, by their files.
FILES = ("agents/SHIPPED.md",)
PAGES = (*FOLDERS, *FILES)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Page:
    """One page. `folder` is its folder from the project's root, or its own file."""

    folder: str
    text: str

    @property
    def path(self) -> Path:
        return file_of(self.folder)

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return BLOCK.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Return the code blocks of a language, in order."""
        return [text for found, text in BLOCK.findall(self.text) if found == language]

    def links(self) -> list[str]:
        """Return where its links lead to, as they are written."""
        return LINK.findall(self.prose)

    def anchors(self, level: str = "#+") -> list[str]:
        """Return the anchors of the headings, or of those of a level, as GitHub makes them."""
        titles = re.findall(rf"^{level} (.+)$", self.prose, re.MULTILINE)
        return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@cache
def page(folder: str) -> Page:
    """Return the page of a folder, or a file's."""
    return Page(folder, file_of(folder).read_text())


def file_of(folder: str) -> Path:
    """Return a page's file."""
    return ROOT / folder if folder in FILES else ROOT / folder / NAME


def pages() -> list[Page]:
    """Return all pages."""
    return [page(folder) for folder in PAGES]
