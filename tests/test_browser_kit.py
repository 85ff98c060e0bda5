"""The list of what may not happen on a page: a test of a page is worth what this notices."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import a_browser, a_tab
from tests.site import Site, site

POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'self\'"><title>x</title>'
)
HTML = "text/html; charset=utf-8"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as found:
        yield found


@pytest.fixture(scope="module")
def there() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.mark.parametrize(
    "markup, noticed",
    [
        ("<img src='http://127.0.0.1:9/x.png'>", "request elsewhere"),
        (f"{POLICY}<script>1</script>", "Content Security Policy"),
        (f"{POLICY}<p style='color:red'>", "Content Security Policy"),
        ("<script>console.error('odd')</script>", "console, error: odd"),
        ("<script>throw new Error('thrown')</script>", "script: "),
        ("<img src='/nowhere'>", "404"),
    ],
)
def test_what_goes_wrong_is_noticed(
    browser: Browser, there: Site, markup: str, noticed: str
) -> None:
    """Errors, violations of the policy and requests to elsewhere fail the test of a page."""
    there.url("/", HTML, markup)
    with (
        pytest.raises(AssertionError, match=noticed),
        a_tab(browser, f"http://{there.host}") as tab,
    ):
        tab.go("/")


def test_what_is_right_is_no_problem(browser: Browser, there: Site) -> None:
    """A page of its own place alone, in a window of 320 pixels, that is or is not too wide."""
    there.url("/", HTML, f"{POLICY}<h1>All is well</h1>")
    there.url("/wide", HTML, "<pre>" + "x" * 500)
    small = {"viewport": {"width": 320, "height": 600}}
    with a_tab(browser, f"http://{there.host}", **small) as tab:
        assert tab.go("/").title() == "x" and tab.overflow == 0
        tab.go("/wide")
        assert tab.overflow > 0


def test_what_is_hard_to_read_is_noticed(browser: Browser, there: Site) -> None:
    """A text that is faint on its ground, and a control that a screen reader cannot name."""
    named = "<p>dark</p><label>Name <input></label><button>Go</button>"
    there.url("/", HTML, f"<body style='background: #fff'>{named}")
    there.url(
        "/bad", HTML, "<div style='background: #888'><p style='color: #999'>x</p></div><input>"
    )
    with a_tab(browser, f"http://{there.host}") as tab:
        tab.go("/")
        assert tab.faint == [] and tab.nameless == []
        tab.go("/bad")
        assert [text.split()[1:] for text in tab.faint] == [["P", "x"]]
        assert len(tab.nameless) == 1
