"""A real browser for tests of the page, and a list of all that may not happen in it.

Playwright drives Debian's Chromium, or the browser that the machine has; it fetches none itself.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    sync_playwright,
)
from playwright.sync_api import expect as expect

NAMES = ("chromium", "chromium-browser", "google-chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
PROGRAM = next(filter(None, map(shutil.which, NAMES)), MAC if Path(MAC).exists() else None)
NO_BROWSER = "no browser here: apt-get install chromium, or brew install google-chrome"
OPTIONS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 20_000  # for anything that a test waits for; far above what it takes
# A line of Playwright's tree of what a screen reader meets: its role, and no name behind it.
NAMELESS = re.compile(r" *- (button|checkbox|combobox|img|link|radio|searchbox|textbox)(:|$)")
FAINT = (Path(__file__).parent / "faint.js").read_text()
LOST = "net::ERR_"  # begins what the console says of a server that is away


@contextmanager
def a_browser() -> Iterator[Browser]:
    """A browser that is gone when the block ends. Skips where this machine has none."""
    if PROGRAM is None:
        pytest.skip(NO_BROWSER)
    as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=PROGRAM, args=[*OPTIONS, *as_root], timeout=3 * DEADLINE_MS
        )
        expect.set_options(timeout=DEADLINE_MS)
        yield browser
        browser.close()


class Tab:
    """A browser's window of its own, with one page, that may speak to `origin` alone.

    `problems` has each error on its console, each violation of a Content-Security-Policy (Chromium
    writes it there), each error that a script raised, each request to somewhere else, and each
    answer of 500 and more.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.origin = origin
        self.problems: list[str] = []
        context.set_default_timeout(DEADLINE_MS)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.problems.append(f"script: {error.error}"))
        context.on("request", self._asked)
        context.on("response", self._answered)
        self.page: Page = context.new_page()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said = f"{message.text} ({message.location['url']})"
            self.problems.append(f"console, {message.type}: {said}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:")):
            self.problems.append(f"request elsewhere: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 500:
            self.problems.append(f"answer {response.status}: {response.url}")

    def go(self, path: str) -> Page:
        """Open one of its pages, and wait until what it is made of has come."""
        answer = self.page.goto(f"{self.origin}{path}")
        assert answer is not None and answer.ok, f"{path}: {answer and answer.status}"
        return self.page

    def enter(self, link: str) -> None:
        """Come in by a link of `agentd ui`; return once the first page is there."""
        self.page.goto(link)
        self.page.wait_for_url(f"{self.origin}/")

    def forgive_lost_server(self) -> None:
        """Drop what the console says of requests while the server was away."""
        self.problems = [said for said in self.problems if LOST not in said]

    @property
    def overflow(self) -> int:
        """How many pixels the page is wider than its window: what must be scrolled sideways."""
        root = "document.documentElement"
        return int(self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))

    @property
    def nameless(self) -> list[str]:
        """What a screen reader would find on the page and could not name."""
        tree = self.page.locator("body").aria_snapshot().splitlines()
        return [line for line in tree if NAMELESS.match(line)]

    @property
    def faint(self) -> list[str]:
        """Texts that are hard to read on their ground: below 4.5 to 1, WCAG 2.2's 1.4.3 (AA)."""
        found: list[str] = self.page.evaluate(FAINT)
        return found


@contextmanager
def a_tab(browser: Browser, origin: str, **options: object) -> Iterator[Tab]:
    """A window with nothing in it from before. Fails in the end for each of its problems."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    try:
        tab = Tab(context, origin)
        yield tab
        tab.page.evaluate("0")  # what the browser said before this has come by now
        assert not tab.problems, "\n".join(tab.problems)
    finally:
        context.close()
