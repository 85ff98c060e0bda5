"""The page as a program asks for it: a link, a cookie, forms with their token."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.supervised import DEADLINE_S, Daemon

TOKEN = re.compile('name="token" value="([^"]*)"')


def new_link(one: Daemon) -> str:
    """Return a link as `agentd ui` prints it."""
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "ui", "--json"],
        env=one.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["url"])


class PageClient:
    """A browser without JavaScript: it says where it comes from, and keeps its cookie."""

    def __init__(self, client: httpx2.Client, link: str) -> None:
        self.client, self.link = client, link
        self.get, self.origin = client.get, str(client.base_url).rstrip("/")

    def token(self) -> str:
        """Return what its forms hold."""
        found = TOKEN.search(self.get("/agents").text)
        assert found is not None
        return found.group(1)

    def act(self, **form: str) -> dict[str, Any]:
        """Send a form as page.js does."""
        headers = {"Origin": self.origin, "Accept": "application/json"}
        answer = self.client.post("/act", data={"token": self.token(), **form}, headers=headers)
        told: dict[str, Any] = answer.json()
        return told


@contextmanager
def open_page(one: Daemon, *, enter: bool = True) -> Iterator[PageClient]:
    """Yield a browser that was let in, or not yet."""
    link = new_link(one)
    base = link.partition("/enter/")[0]
    with httpx2.Client(base_url=base, timeout=DEADLINE_S) as client:
        page = PageClient(client, link)
        if enter:
            assert client.get(link).status_code < 400
        yield page
