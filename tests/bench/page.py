"""The page in a real browser: how soon it is there and shows what is new, and what it costs."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page

from agentd.errors import AgentdError
from agentd.events import NewEvent
from agentd.supervisor.client import query
from tests.browser import PROGRAM, Tab, a_browser, a_tab
from tests.commandline import agentd
from tests.ports import free_port
from tests.site import site

from .home import DEADLINE_S, ROOT, Home, cpu_s
from .table import Figure, quantile

SHOWN, SHOWN_QUICK = 60, 4
PAUSE_S = 0.7  # about; above the pause that the page makes between two refreshes
PAINTS, PAINTS_QUICK = 15, 2
WINDOW_S, WINDOW_QUICK_S = 30.0, 3.0
MANY, MANY_QUICK = 1_000_000, 20_000
# The browser's own clock when an element with this text came to stand on the page.
NOTICED = """(text) => new Promise((done) => {
  const look = () => document.body.textContent.includes(text);
  if (look()) return done(Date.now());
  const watch = new MutationObserver(() => {
    if (!look()) return;
    watch.disconnect();
    done(Date.now());
  });
  watch.observe(document.body, { childList: true, subtree: true, characterData: true });
})"""
# The page as the server makes it anew, in milliseconds: what is left of it without a stream.
FETCHED = """async () => {
  const began = performance.now();
  new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  return performance.now() - began;
}"""
PAINTED = """() => new Promise((done) => {
  const watch = new PerformanceObserver((list) => {
    const [first] = list.getEntriesByName("first-contentful-paint");
    if (first) done(first.startTime);
  });
  watch.observe({ type: "paint", buffered: true });
})"""
FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO outbox (agent, event_type, payload)
SELECT 'agent' || (i % 20), iif(i % 50, 'thing.seen', 'thing.found'),
  iif(i % 50, json_object('n', i), json_object('title', 'Result ' || i, 'text', '* a line of it'))
FROM n
"""


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield nothing where there is no browser."""
    if PROGRAM is None:
        return
    port = free_port()
    home.paths.daemon_file.write_text(
        '[model]\nurl = "http://127.0.0.1:9/v1"\nname = "none"\ncontext_window = 4096\n'
        f"[ui]\nport = {port}\n"
    )
    with _daemon(home) as pid, a_browser() as browser:
        link = agentd(home.root, "ui", "--print").stdout.strip()
        with a_tab(browser, f"http://127.0.0.1:{port}") as tab:
            tab.enter(link)
            yield from _shown(quick, home, tab)
            yield from _idle(quick, tab, pid)
            yield from _first_paint(quick, home, tab, browser.new_page(), pid)


@contextmanager
def _daemon(home: Home) -> Iterator[int]:
    """Run a daemon; yield the pid of the page's process."""
    daemon = subprocess.Popen(
        [sys.executable, "-m", "agentd", "run"],
        env=home.environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + DEADLINE_S
        while True:
            try:
                ui = query(home.paths).get("ui") or {}
            except AgentdError:
                ui = {}
            if ui.get("state") == "RUNNING":
                break
            assert daemon.poll() is None and time.monotonic() < until, ui
            threading.Event().wait(0.05)
        yield ui["pid"]
    finally:
        daemon.terminate()
        daemon.wait(DEADLINE_S)


def _shown(quick: bool, home: Home, tab: Tab) -> Iterator[Figure]:
    """From the commit of a result to its standing on the page, in the browser's clock."""
    page, bus, never = tab.go("/"), home.bus(), threading.Event()
    took, base = [], []
    for number in range(SHOWN_QUICK if quick else SHOWN):
        never.wait(PAUSE_S * (1 + number % 7 / 7))
        title = f"This is number {number} of them"
        page.evaluate(f"window.noticed = ({NOTICED})({title!r}); 0")
        bus.publish("writer", NewEvent("thing.found", {"title": title}))
        before = time.time() * 1000
        took.append(page.evaluate("window.noticed") - before)
        base.append(page.evaluate(FETCHED))
    bus.close()
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        yield Figure(
            f"page: a new event shows, {name}",
            quantile(took, share),
            "ms",
            quantile(base, share),
            "to fetch and read the same page",
            at_most=300,
        )


def _idle(quick: bool, tab: Tab, pid: int) -> Iterator[Figure]:
    """What the page's process takes while nothing happens."""
    never, seconds = threading.Event(), WINDOW_QUICK_S if quick else WINDOW_S

    def share() -> float:
        before, began = cpu_s(pid), time.monotonic()
        never.wait(seconds)
        return 100 * (cpu_s(pid) - before) / (time.monotonic() - began)

    tab.go("/")
    never.wait(2.0)
    ours = share()
    tab.page.goto("about:blank")
    never.wait(2.0)
    yield Figure(
        "page: CPU while it is open and nothing happens",
        ours,
        "%",
        share(),
        "while it is closed: a heartbeat, and the HTTP server's clock",
        at_most=0.5,
    )


def _first_paint(quick: bool, home: Home, tab: Tab, bare: Page, pid: int) -> Iterator[Figure]:
    """Beside the same document, style and script from a server that only sends bytes."""
    many = MANY_QUICK if quick else MANY
    bus = home.bus()
    with bus.transaction():
        bus.db.run(FILL, (many,))
    bus.close()
    pages = {"Today": "/", "Agents": "/agents", "Log": "/log"}
    ours = {name: _paints(tab.page, f"{tab.origin}{path}", quick) for name, path in pages.items()}
    tab.page.goto("about:blank")
    before = cpu_s(pid)
    for _ in range(PAINTS):
        tab.page.context.request.get(f"{tab.origin}/").body()
    took = 1000 * (cpu_s(pid) - before) / PAINTS
    yield Figure("page: processor time for Today", took, "ms", note=f"{many:,} events")
    with site() as still:
        for path in ("/static/page.css", "/static/page.js", "/static/icon.svg"):
            answer = tab.page.context.request.get(f"{tab.origin}{path}")
            still.url(path, answer.headers["content-type"], answer.body())
        for name, path in pages.items():
            html = tab.page.context.request.get(f"{tab.origin}{path}").body()
            base = _paints(bare, still.url("/", "text/html; charset=utf-8", html), quick)
            yield Figure(
                f"page: first paint of {name}",
                ours[name],
                "ms",
                base,
                "the same bytes from a server that does nothing else",
                at_most=200,
                note=f"{many:,} events",
            )


def _paints(page: Page, url: str, quick: bool) -> float:
    """Return the median of milliseconds from the asking to the first text."""
    found = []
    for _ in range(PAINTS_QUICK if quick else PAINTS):
        page.goto(url)
        found.append(float(page.evaluate(PAINTED)))
    return quantile(found, 0.5)
