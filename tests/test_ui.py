"""The page's process, as a browser meets it: real daemon, real sockets."""

import re
from pathlib import Path

from tests.page_client import open_page
from tests.supervised import daemon


def test_a_link_opens_the_page_once(tmp_path: Path) -> None:
    """Who has no cookie sees nothing; a link gives one, and no second browser gets in by it."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page, open_page(one, enter=False) as stranger:
            assert page.get("/").status_code == 200
            assert stranger.get("/").status_code == 401
            assert stranger.get(page.link).status_code == 403
            assert stranger.get("/").status_code == 401


def test_a_click_is_a_command(tmp_path: Path) -> None:
    """What a form stands for is run as its person's command, and what it says comes back."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page:
            told = page.act(do="dead-drop", id="5")
            assert (told["ok"], "no such dead letter" in told["message"]) == (False, True)
            acted = one.log("ui.acted")
            assert [(line["command"], line["code"]) for line in acted] == [("dead", 2)]


def test_an_open_page_hears_of_events(tmp_path: Path) -> None:
    """A stream tells what was published after the event that a page has."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page, page.client.stream("GET", "/live?after=0") as stream:
            told = next(line for line in stream.iter_lines() if line.startswith("data:"))
            assert re.search(r'"type": "agentd.ui"', told)
