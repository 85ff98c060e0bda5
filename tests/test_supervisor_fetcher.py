"""The fetcher under a real supervisor: one for all, started at need, and gone with it."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentd.sandbox.level import reached
from agentd.supervisor.fetcher_host import NAME
from tests.supervised import IDLE_VARIABLE, Daemon, alive, daemon, wait_for
from tests.test_proxy import needs
from tests.test_tools_http import SEEN, Pages

pytestmark = pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")


@pytest.fixture
def site() -> Iterator[str]:
    """A server of this test; return its host and port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as served:
        served.daemon_threads = True
        threading.Thread(target=served.serve_forever, args=(0.01,)).start()
        yield f"127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.fixture
def idle_s() -> str:
    """For how long nobody may need the fetcher until it is stopped: not within a test."""
    return "600"


@pytest.fixture
def running(tmp_path: Path, site: str, idle_s: str) -> Iterator[Daemon]:
    """A supervisor with a worker that may fetch from the site, and one that may not."""
    with daemon(tmp_path / "home", {IDLE_VARIABLE: idle_s}) as one:
        drop(one, "one", f'net = ["{site}"]\nrun = ["curl"]')
        drop(one, "two", 'net = ["example.com"]')
        one.start()
        for name in ("one", "two"):
            one.wait_state(name, "RUNNING")
        yield one


def drop(one: Daemon, name: str, permissions: str) -> None:
    one.drop(name, "call", f"[permissions]\n{permissions}\n")


def fetch(one: Daemon, site: str, name: str = "one", page: str = "text") -> Any:
    answer = one.called(name, "HttpGet", url=f"http://{site}/{page}")
    return answer.get("text", answer)


def curl(one: Daemon, url: str) -> str:
    answer = one.called("one", "RunCommand", program="curl", args=["-sS", "-m", "20", url])
    return str(answer.get("output", answer))


def states(one: Daemon) -> list[str]:
    return [entry["state"] for entry in one.log("worker.state") if entry["agent"] == NAME]


def pid(one: Daemon) -> int:
    """Return the fetcher's that was started last."""
    started = [entry for entry in one.log("worker.state") if entry["agent"] == NAME]
    found: int = next(entry["pid"] for entry in reversed(started) if "pid" in entry)
    return found


def test_one_fetcher_for_all_each_with_its_list(running: Daemon, site: str) -> None:
    """Started at the first call; who asks has the list of its own file."""
    assert states(running) == []
    assert fetch(running, site) == fetch(running, site) == "café"
    first = pid(running)
    refused = fetch(running, site, "two")
    assert refused["raised"] == "PermissionRefused" and "only example.com" in refused["what"]
    assert pid(running) == first and alive(first)
    drop(running, "two", f'net = ["{site}"]')
    wait_for(lambda: fetch(running, site, "two") == "café", "its new version may")


def test_a_fetcher_that_dies_is_replaced(running: Daemon, site: str) -> None:
    """Between two calls nobody notices; in one, which may run again, neither."""
    assert fetch(running, site) == "café"
    first, begun = pid(running), len(SEEN)
    os.kill(first, signal.SIGKILL)
    assert fetch(running, site) == "café"
    second = pid(running)
    assert second != first
    answer = running.call("one", "HttpGet", deadline_s=60, url=f"http://{site}/slow")
    wait_for(lambda: len(SEEN) > begun + 1, "it is under way")
    os.kill(second, signal.SIGKILL)
    wait_for(lambda: len(SEEN) > begun + 2, "it is begun again")
    os.kill(pid(running), signal.SIGKILL)
    told = json.loads(wait_for(lambda: answer.exists() and answer.read_text()))
    assert told == {"raised": "ToolError", "what": "HttpGet: its process ended in the middle of it"}


@needs("curl")
def test_programs_go_by_its_proxy(running: Daemon, site: str) -> None:
    """Where `run` and `net` are listed: also over a fetcher's death, and not beyond the hands'."""
    url = f"http://{site}/text"
    assert "caf" in curl(running, url)
    assert "may not be fetched; only" in curl(running, "http://localhost:1/")
    os.kill(pid(running), signal.SIGKILL)
    assert "caf" in curl(running, url), "the next one has the same port"
    hands = running.log("hands.started")[-1]["pid"]
    model = int(running.status()["model"]["url"].split(":")[2].removesuffix("/v1"))
    (port,) = listening(running.pid) - {model}
    os.kill(hands, signal.SIGKILL)
    wait_for(lambda: running.log("hands.ended"), "they are gone")
    wait_for(lambda: refuses(port), "nobody is let in")


def listening(pid: int) -> set[int]:
    """Return the ports of loopback at which a process listens."""
    import psutil

    found = psutil.Process(pid).net_connections("tcp")
    return {entry.laddr.port for entry in found if entry.status == psutil.CONN_LISTEN}


def refuses(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_supervisor(running: Daemon, site: str, how: int) -> None:
    """Also in the middle of a call."""
    begun = len(SEEN)
    running.call("one", "HttpGet", deadline_s=60, url=f"http://{site}/slow")
    wait_for(lambda: len(SEEN) > begun, "it is under way")
    fetcher = pid(running)
    os.kill(running.pid, how)
    wait_for(lambda: not alive(fetcher), "it is gone")


@pytest.mark.parametrize("idle_s", ["0.1"])
def test_it_ends_when_nobody_needs_it(running: Daemon, site: str) -> None:
    """And the next call has another one."""
    assert fetch(running, site) == "café"
    wait_for(lambda: states(running)[-1] == "STOPPED", "it is stopped")
    assert running.log("worker.state")[-1]["reason"] == "nobody needs it"
    assert fetch(running, site) == "café"


def test_it_is_in_a_sandbox(running: Daemon, site: str) -> None:
    """The kernel says so."""
    assert fetch(running, site) == "café"
    status = Path(f"/proc/{pid(running)}/status").read_text().splitlines()
    told = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert told["NoNewPrivs"] == "1" and told["Seccomp"] == "2"
    assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0


def test_without_a_sandbox_there_is_none_unless_a_person_says_so(tmp_path: Path, site: str) -> None:
    """One clear error."""
    with daemon(tmp_path / "home", {"TEST_NO_SANDBOX": "1"}) as one:
        drop(one, "one", f'net = ["{site}"]')
        one.start()
        one.wait_state("one", "RUNNING")
        told = fetch(one, site)
        assert told == {
            "raised": "SandboxUnavailable",
            "what": "no sandbox: switched off for a test",
        }
