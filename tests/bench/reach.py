"""Reaching others by a process between: the model by a link, a page by way of the fetcher."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from agentd.config.agent import Permissions
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.process.channel import Channel
from agentd.process.child import Child, python
from agentd.process.supervisor_link import SupervisorLink
from agentd.testing import wait_for
from agentd.testing.tiny_model import ScriptedEngine
from agentd.tools.remote import Remote
from agentd.tools.toolbox import Toolbox
from tests.serving import NAME, TOKEN, serving
from tests.test_fetcher import channel_to
from tests.test_tools_http import Pages

from .home import Home, memory_mb
from .table import Figure

CALLS, CALLS_QUICK = 500, 50
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
MORE_MS = 1.0  # the aim, of a page


class FetcherLink(SupervisorLink):
    """Hands over a channel of one agent, as a supervisor does."""

    def __init__(self, child: Child, site: str) -> None:
        super().__init__(None)
        self._child, self._site = child, site

    def ask(self, *_: Any, **__: Any) -> tuple[dict[str, Any], list[int]]:
        """Return its descriptor."""
        assert self._child.control is not None
        return {}, [channel_to(Channel(self._child.control), "one", self._site).detach()]


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield a call to the model by link and by port, and a page with and without the fetcher."""
    calls = CALLS_QUICK if quick else CALLS
    with serving(lambda _language: ScriptedEngine(slots=4)) as server:
        url, link = f"http://127.0.0.1:{server.port}/v1", server.link("one")
        ways = {
            "link": Endpoint(lambda: Address(url, NAME, connect=link.connect), own=True),
            "port": Endpoint(lambda: Address(url, NAME, TOKEN), own=True),
        }
        took = {
            way: _ms(calls, lambda: endpoint.chat(CHAT, {}, deadline_s=20, progress=lambda: None))  # noqa: B023
            for way, endpoint in ways.items()
        }
    yield Figure(
        "reach: the model, which answers at once",
        took["link"],
        "ms",
        took["port"],
        "by its port",
        at_most=round(took["port"] + 0.1, 2),
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as served:
        served.daemon_threads = True
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        site = f"127.0.0.1:{served.server_port}"
        child = Child.spawn("f", python("agentd.fetcher", "checks"), home.paths.locks, control=True)
        remotes = {"fetcher": Remote(FetcherLink(child, site), "fetcher")}
        permissions = Permissions(net=(site,))
        page = {"url": f"http://{site}/text"}
        by_it, here = Toolbox(permissions, remotes=remotes), Toolbox(permissions)
        through = _ms(calls, lambda: by_it.call("HttpGet", page))
        direct = _ms(calls, lambda: here.call("HttpGet", page))
        memory = memory_mb(child.pid)
        child.kill()
        wait_for(lambda: child.poll() is not None)
        child.close()
        served.shutdown()
    yield Figure(
        "reach: a page by the fetcher",
        through,
        "ms",
        direct,
        "in the worker itself",
        at_most=round(direct + MORE_MS, 2),
    )
    yield Figure("reach: the fetcher's memory", memory, "MB")


def _ms(calls: int, call: Callable[[], object]) -> float:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3
