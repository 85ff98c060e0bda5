"""The page with much to show: 100 agents and 10,000 events, in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from agentd.bus import Bus
from agentd.events import NewEvent
from tests.browser import Tab, a_browser, a_tab, expect
from tests.commandline import agentd
from tests.ports import free_port
from tests.supervised import QUICK, Daemon, daemon

pytestmark = pytest.mark.timeout(300)
AGENTS, EVENTS = 100, 10_000
RUNNING = 3  # of the agents; the others are off, as a machine is shared
SEEN_MS = 10_000  # until a page is there, on a loaded machine; the bench measures it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as found:
        yield found


@pytest.fixture(scope="module")
def large(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("large")) as one:
        one.configure(f"{QUICK}[ui]\nport = {free_port()}\n")
        for number in range(AGENTS):
            off = "" if number < RUNNING else "enabled = false\n"
            one.drop(f"agent{number:02}", more=off)
        one.start()
        publish(one, "Result")
        yield one
        one.stop()


@pytest.fixture
def tab(browser: Browser, large: Daemon) -> Iterator[Tab]:
    link = agentd(large.home, "ui", "--print").stdout.strip()
    origin = link.partition("/enter/")[0]
    with a_tab(browser, origin, viewport={"width": 320, "height": 640}) as tab:
        tab.enter(link)
        yield tab


def publish(one: Daemon, name: str) -> None:
    """Write results, each of some agent's and with some words, as many at a time as one may."""
    bus = Bus(one.paths.database, wake=one.paths.wake)
    for start in range(0, EVENTS, 1_000):
        with bus.transaction():
            for number in range(start, start + 1_000):
                payload = {"title": f"{name} {number}", "text": f"* word{number % 7}\n" * 20}
                bus.publish(f"agent{number % AGENTS:02}", NewEvent("thing.found", payload))
    bus.close()


def timed(tab: Tab, path: str) -> float:
    """Open a page; return the milliseconds until what is on it was there and laid out."""
    tab.go(path)
    return float(tab.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))


def test_the_pages_are_quick_and_whole(tab: Tab) -> None:
    """Each shows what fits and leads to the rest; nothing is scrolled sideways."""
    for path in ("/", "/?words=word3", "/agents", "/agents/agent07", "/log", "/model", "/ask"):
        took = timed(tab, path)
        assert (path, tab.overflow, took < SEEN_MS) == (path, 0, True), took
    assert tab.go("/agents").locator("#agents a[href^='/agents/agent']").count() >= AGENTS


def test_older_results_are_led_to(tab: Tab) -> None:
    """Page by page, from the newest on, none twice."""
    page, seen = tab.go("/"), list[str]()
    for _ in range(3):
        seen += page.locator("#results article").evaluate_all("all => all.map((one) => one.id)")
        with page.expect_navigation():
            page.get_by_role("link", name="Older").click()
    assert len(set(seen)) == len(seen) >= 30
    titles = page.locator("#results h3").all_inner_texts()
    numbers = [int(title.removeprefix("Result ")) for title in titles]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] == EVENTS - 1 - len(seen)


def test_a_flood_leaves_the_page_usable(tab: Tab, large: Daemon) -> None:
    """Thousands of events at a time are no thousands of refreshes; the newest is shown."""
    page = tab.go("/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    publish(large, "flood")
    expect(page.get_by_role("link", name=f"flood {EVENTS - 1}")).to_be_visible()
    assert len(asked) < 100
