"""Who may look at the page, and what nobody gets by it: hostile requests to a real process."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from agentd.supervisor.one_time_link import LIFE_S, made_at, once, page_key
from agentd.ui.access import Access
from agentd.ui.other_users import foreign
from tests.page_client import PageClient, new_link, open_page
from tests.raw_http import ask, connected, status, to_end
from tests.supervised import DEADLINE_S, Daemon, daemon, wait_for

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests here: none of them stops it."""
    with daemon(tmp_path_factory.mktemp("ui")) as one:
        yield one.start()


@pytest.fixture
def page(home: Daemon) -> Iterator[PageClient]:
    with open_page(home) as opened:
        yield opened


def port_of(page: PageClient) -> int:
    return int(page.origin.rpartition(":")[2])


def cookie_of(page: PageClient) -> str:
    ((name, value),) = page.client.cookies.items()
    return f"{name}={value}"


def raw(page: PageClient, head: str, body: str = "") -> int:
    """Send a request word by word, with the cookie; return the answer's status."""
    fields = f"{head}\r\nCookie: {cookie_of(page)}\r\nContent-Length: {len(body)}\r\n"
    data = f"{fields}Connection: close\r\n\r\n{body}"
    return status(ask(port_of(page), data.encode("latin-1")))


def test_every_answer_says_what_a_browser_may_do(page: PageClient) -> None:
    """Pages, errors, refusals, files and forms: none without the strict policy, none kept."""
    with httpx2.Client(base_url=page.origin, timeout=DEADLINE_S) as stranger:
        found = [
            *map(page.get, ("/", "/nothing", "/static/page.js", "/static/nothing", "/act")),
            *map(page.get, ("/api/results", "/results/999999", "/enter/nothing")),
            page.client.post("/act", data={}, headers={"Origin": page.origin}),
            page.client.post("/act", data={}, headers={"Origin": "http://evil.test"}),
            *map(stranger.get, ("/", "/api/overview", "/live")),
        ]
    for answer in found:
        assert answer.headers["content-security-policy"] == POLICY, answer.url
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_pages_have_no_inline_style_or_script(page: PageClient) -> None:
    """The policy forbids both, and a page that has some would be broken, or need a weaker one."""
    for path in ("/", "/nothing"):
        text = page.get(path).text
        assert not re.search(r"<style|<script(?![^>]*src=)|\son\w+=|\sstyle=|javascript:", text)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.test", "localhost:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}"),
        *("127.0.0.1:{port}.evil.test", "127.0.0.1:{port}@evil.test", ""),
    ],
)
def test_another_host_gets_nothing(page: PageClient, host: str) -> None:
    """A name that was made to lead to this machine asks in vain, also with the cookie."""
    named = host.format(port=port_of(page))
    assert raw(page, f"GET / HTTP/1.1\r\nHost: {named}") in (400, 421)


def test_a_request_without_a_host_or_with_two_gets_nothing(page: PageClient) -> None:
    """Which of two a browser meant nobody knows."""
    own = f"Host: 127.0.0.1:{port_of(page)}"
    assert raw(page, f"GET / HTTP/1.1\r\n{own}") == 200
    assert raw(page, "GET / HTTP/1.1") == 400
    assert raw(page, f"GET / HTTP/1.1\r\n{own}\r\nHost: evil.test") == 400
    assert raw(page, f"GET http://evil.test/ HTTP/1.1\r\n{own}") in (400, 404)


@pytest.mark.parametrize(
    "field",
    [
        *("Origin: http://evil.test", "Origin: null", "Origin: http://127.0.0.1:1", "X: no origin"),
        *("Origin: https://127.0.0.1:{port}", "Origin: http://127.0.0.1:{port}.evil.test"),
        "Origin: http://127.0.0.1:{port}\r\nOrigin: http://evil.test",
        "Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site",
        "Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-site",
    ],
)
def test_another_page_cannot_post(home: Daemon, page: PageClient, field: str) -> None:
    """A form of another site is sent with the browser's cookie where that site is on this host."""
    port, before = port_of(page), len(home.log("ui.acted"))
    head = f"POST /act HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{field.format(port=port)}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded"
    assert raw(page, head, f"token={page.token()}&do=reload") == 403
    assert len(home.log("ui.acted")) == before


def test_a_form_needs_the_token_of_its_own_cookie(home: Daemon, page: PageClient) -> None:
    """What another browser was given, or nobody, is no form of this one."""
    with open_page(home) as other:
        for token in ("", "0" * 64, other.token(), page.token()[:-1]):
            told = page.act(token=token, do="reload")
            assert (told["ok"], "of another page" in told["message"]) == (False, True)
        assert page.act(do="nothing")["message"].startswith("nothing: this form stands for no")


def test_forms_are_bounded(page: PageClient) -> None:
    """Neither size nor kind nor number of fields can be chosen by who sends them."""
    headers = {"Origin": page.origin, "Accept": "application/json"}
    form = "application/x-www-form-urlencoded"

    def sent(body: bytes, kind: str) -> int:
        fields = {**headers, "Content-Type": kind}
        return page.client.post("/act", content=body, headers=fields).status_code

    assert sent(b"do=" + b"x" * 70_000, form) == 400
    assert sent(b"&".join(b"a%d=1" % n for n in range(60)), form) == 400
    assert sent(b"\xff\xfe", form) == sent(b"do", form) == 400
    assert sent(b'{"do": "reload"}', "application/json") == 400
    assert sent(b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x") == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"])
def test_other_methods_get_nothing(page: PageClient, method: str) -> None:
    """A preflight, most of all, is answered by a refusal."""
    own = f"Host: 127.0.0.1:{port_of(page)}"
    assert raw(page, f"{method} / HTTP/1.1\r\n{own}") == 405


def test_static_files_are_those_of_the_folder(page: PageClient) -> None:
    """Nothing else of the disk can be asked for."""
    own = f"Host: 127.0.0.1:{port_of(page)}"
    for way in ("../access.py", "..%2faccess.py", "%2e%2e/access.py", "//etc/passwd", "..\\x"):
        assert raw(page, f"GET /static/{way} HTTP/1.1\r\n{own}") == 404


@pytest.mark.parametrize("cookie", ["", "x", "1.2.3", "9999999999.aa.{mac}", "{old}", "é"])
def test_a_made_up_cookie_is_none(page: PageClient, cookie: str) -> None:
    """Also one that is right but for its time, or its name."""
    name, value = cookie_of(page).split("=")
    until, nonce, mac = value.split(".")
    made = cookie.format(mac=mac, old=f"{int(until) + 1}.{nonce}.{mac}")
    with httpx2.Client(base_url=page.origin, timeout=DEADLINE_S) as stranger:
        for header in (f"{name}={made}", f"{name}x={value}", f"{name}={value}x"):
            headers = {b"Cookie": header.encode()}
            assert stranger.get("/", headers=headers).status_code == 401
        assert stranger.get("/", headers={"Cookie": f"a=b; {name}={value}"}).status_code == 200


def test_the_cookie_is_for_this_site_alone(home: Daemon) -> None:
    """No script reads it, and no other site's request brings it."""
    entered = httpx2.get(new_link(home), timeout=DEADLINE_S).headers["set-cookie"]
    assert entered.endswith("; Path=/; HttpOnly; SameSite=Strict")


def test_no_secret_is_logged_or_published(home: Daemon, page: PageClient) -> None:
    """A link, a cookie and a token are of no use to who reads logs or events."""
    page.act(do="reload")
    secrets = [page.link.rpartition("/")[2], cookie_of(page).split("=")[1], page.token()]
    key = page_key(home.paths).hex()
    texts = [path.read_text() for path in home.paths.logs.rglob("*.jsonl")]
    texts += [str(home.events("agentd.ui")), str(home.status())]
    assert texts and not [one for one in (*secrets, key) for text in texts if one in text]


def test_who_holds_connections_open_keeps_nobody_out(page: PageClient) -> None:
    """Strangers that say nothing have few places, and who knows the page keeps theirs."""
    with ExitStack() as held:
        for _ in range(60):
            held.enter_context(connected(port_of(page))).sendall(b"GET / HTTP/1.1\r\n")
        assert page.get("/").status_code == 200


def test_too_many_open_pages_are_refused(page: PageClient) -> None:
    """A stream that is one too many gets an answer, and the others go on."""
    own = f"Host: 127.0.0.1:{port_of(page)}\r\nCookie: {cookie_of(page)}\r\n\r\n"
    with ExitStack() as held:
        for _ in range(60):
            sock = held.enter_context(connected(port_of(page)))
            sock.sendall(f"GET /live HTTP/1.1\r\n{own}".encode())
            assert status(sock.recv(64)) == 200
        assert page.get("/live").status_code == 503
        assert page.get("/").status_code == 200

    def free() -> bool:
        with page.client.stream("GET", "/live") as answer:
            return answer.status_code == 200

    wait_for(free, "closed pages are forgotten")


def test_a_stop_ends_open_pages(tmp_path: Path) -> None:
    """The daemon waits for no browser; and its page is there again at the same port, with [ui]."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page:
            port = port_of(page)
        one.stop()
        one.configure(f"[ui]\nport = {port}\n")
        one.start()
        wait_for(lambda: one.ui().get("state") == "RUNNING", "the page")
        again = httpx2.Client(base_url=page.origin, cookies=page.client.cookies, timeout=DEADLINE_S)
        with again, again.stream("GET", "/live") as stream:
            assert stream.status_code == 200  # the same cookie
            assert again.get(page.link).status_code == 403  # the link was used by the one before
            assert one.stop() == 0
            assert "" in [*stream.iter_lines()]  # it ended, and in order


def test_a_page_that_crashed_is_there_again(home: Daemon) -> None:
    """Its port is the same, so that a page that is open finds it."""
    with open_page(home) as page:
        pid = home.status()["ui"]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: home.ui().get("pid") not in (pid, None), "another process")
        wait_for(lambda: home.ui().get("state") == "RUNNING", "it serves")
        assert page.get("/").status_code == 200


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="only root has other users")
def test_another_user_gets_nothing(page: PageClient) -> None:
    """Whoever read the link or the cookie in a list of processes, say, gets in by neither."""
    head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port_of(page)}\r\nCookie: {cookie_of(page)}\r\n"
    os.seteuid(65534)
    try:
        with connected(port_of(page)) as sock:
            os.seteuid(0)
            sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
            assert status(to_end(sock)) == 403
    finally:
        os.seteuid(0)


def test_a_socket_of_nobody_is_not_foreign() -> None:
    """Where the kernel tells nothing of a connection, the cookie decides."""
    assert not foreign(("127.0.0.1", 1), ("127.0.0.1", 2))
    assert not foreign(None, None)


class At:
    """A clock that stands."""

    def __init__(self, moment: float = 0.0) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.moment, UTC)

    def monotonic(self) -> float:
        return self.moment


def test_a_link_holds_for_two_minutes() -> None:
    """Neither an old one nor one from before the process, or from a clock that is ahead."""
    key, clock = b"k" * 32, At()
    before = once(key, At(-1).now())
    access = Access(key, 4242, clock)
    assert access.enter(before) is None
    first, second, ahead = (once(key, At(moment).now()) for moment in (1, 1, LIFE_S + 10))
    clock.moment = LIFE_S
    assert access.enter(first) and not access.enter(first)
    assert access.enter(ahead) is None
    clock.moment = LIFE_S + 2
    assert access.enter(second) is None
    assert made_at(b"x" * 32, first) is None and made_at(key, "é.x.y") is None
