"""Who may look: whoever came by a link of `agentd ui`, from this machine's own browser.

A link is taken once, within two minutes, and becomes a cookie. Each request must name this very
host, and come from a page of ours or from nobody's: so neither a page of somebody else's in the
same browser nor a name that was made to lead here can ask. Another user of this machine gets no
answer, whatever they found out. Nothing here is kept over a restart but the key, so a cookie holds
until it is too old.
"""

import secrets
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentd.clock import Clock
from agentd.supervisor.loopback import HOST
from agentd.supervisor.one_time_link import ENTER, LIFE_S, mac, made_at, same
from agentd.ui.other_users import foreign

COOKIE_S = 30 * 86_400.0
NONCE_BYTES = 12
USED_MAX = 1_000  # words of links that are remembered; each is a person's `agentd ui`
ENTERS = f"/{ENTER}/"
METHODS = frozenset({"GET", "HEAD", "POST"})
OURS = frozenset({"none", "same-origin"})  # of Sec-Fetch-Site: typed or opened, or a page of ours
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    # Others learn of no address. With no-referrer a form's Origin would be null, and be refused.
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
# In a request's scope: its cookie, where it holds; and which state of the database it comes before.
SHOWN, SEEN = "agentd.page", "agentd.seen"
HOW = "Run `agentd ui` in a terminal: it prints a link that opens this page.\n"
# The way on is the page's own: a cookie of this site alone is not sent where another site led to.
ENTERED = """<!doctype html><html lang="en"><title>agentd</title>
<link rel="icon" href="/static/icon.svg"><meta http-equiv="refresh" content="0;url=/">
<p><a href="/">To the page</a></p></html>
"""


class Access:
    """The rules, for one port. `key` proves links and cookies."""

    def __init__(self, key: bytes, port: int, clock: Clock) -> None:
        self._key, self._clock = key, clock
        self.host = f"{HOST}:{port}"
        self.origin = f"http://{self.host}"
        self._name = f"agentd_{port}"  # cookies know no ports: two homes must not share one
        self._since = clock.now().timestamp()
        self._used: dict[str, None] = {}
        self._looked = clock.monotonic()

    @property
    def idle_s(self) -> float:
        """For how long nobody has looked."""
        return self._clock.monotonic() - self._looked

    def looked(self) -> None:
        """Somebody looks."""
        self._looked = self._clock.monotonic()

    def enter(self, word: str) -> str | None:
        """Take a link's word; return the header of the cookie that it becomes, None: it is none."""
        now, made = self._clock.now().timestamp(), made_at(self._key, word)
        # What was made before this process began may have been used at the one before it.
        fresh = made is not None and max(self._since, now - LIFE_S) <= made <= now + 1
        if not fresh or word in self._used:
            return None
        self._used[word] = None
        if len(self._used) > USED_MAX:
            del self._used[next(iter(self._used))]
        value = f"{round(now + COOKIE_S)}.{secrets.token_hex(NONCE_BYTES)}"
        value += f".{mac(self._key, 'cookie', value)}"
        return f"{self._name}={value}; Path=/; HttpOnly; SameSite=Strict"

    def cookie(self, headers: Headers) -> str | None:
        """Return the cookie by which a request may look, None without one."""
        for line in headers.getlist("cookie"):
            value = cookie_parser(line).get(self._name, "")
            word, _, shown = value.rpartition(".")
            if same(shown, mac(self._key, "cookie", word)):
                until = int(word.partition(".")[0])
                return value if self._clock.now().timestamp() < until else None
        return None

    def knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether these headers hold a cookie of ours."""
        return self.cookie(Headers(raw=list(headers))) is not None

    def form_token(self, cookie: str) -> str:
        """Return what each form of a page holds, and no other site can know."""
        return mac(self._key, "form", cookie)

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to what no browser of this page asks; None: it may."""
        method = scope["method"]
        if foreign(scope.get("client"), scope.get("server")):
            return PlainTextResponse("This page is another user's.\n", 403)
        if method not in METHODS:
            return PlainTextResponse("Not a method of this page.\n", 405)
        if headers.getlist("host") != [self.host]:
            return PlainTextResponse(f"This page is at {self.host} alone.\n", 421)
        origins = headers.getlist("origin")
        posts = method == "POST"
        if (origins or posts) and origins != [self.origin]:
            return PlainTextResponse("Another page asked for this.\n", 403)
        enters = scope["path"].startswith(ENTERS)  # from a terminal in a browser, say
        if headers.get("sec-fetch-site", "none") not in OURS and not enters:
            return PlainTextResponse("Another page asked for this.\n", 403)
        return None


class Door:
    """Lets requests in by the rules, and puts the headers of safety on every answer.

    `version` gives a number that is another one once something was committed.
    """

    def __init__(self, app: ASGIApp, access: Access, version: Callable[[], int]) -> None:
        self._app, self._access, self._version = app, access, version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message.get("headers", ())
                kept = [pair for pair in own if pair[0].lower() not in HEADERS]
                message["headers"] = [*kept, *HEADERS.items()]
            await send(message)

        answer = self._answer(scope)
        await (answer or self._app)(scope, receive, safe)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the answer to a request that comes to no page."""
        headers = Headers(scope=scope)
        if (refusal := self._access.refusal(scope, headers)) is not None:
            return refusal
        path: str = scope["path"]
        if path.startswith(ENTERS):
            return self._enter(scope["method"], path.removeprefix(ENTERS))
        cookie = self._access.cookie(headers)
        if cookie is None:
            return None if path.startswith("/static/") else PlainTextResponse(HOW, 401)
        scope[SHOWN], scope[SEEN] = cookie, self._version()
        self._access.looked()
        return None

    def _enter(self, method: str, word: str) -> Response:
        cookie = self._access.enter(word) if method == "GET" else None
        if cookie is None:
            return PlainTextResponse(f"This link was used, or is too old.\n{HOW}", 403)
        self._access.looked()
        return HTMLResponse(ENTERED, headers={"set-cookie": cookie})


def shown_cookie(scope: Scope) -> str:
    """Return the cookie by which a request that came to a page may look."""
    return str(scope[SHOWN])
