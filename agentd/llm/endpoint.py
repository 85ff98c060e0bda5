"""A model server as agents ask it: a typed call each for answers, tokens and scores.

A call's deadline counts from its admission: our own server writes `: queued` comments into the
event stream while a call waits, and each of them starts the deadline anew. `retries.py` has the
rules by which calls wait, try again and give up.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from agentd.clock import Clock, SystemClock
from agentd.config.daemon import ModelConfig
from agentd.errors import ModelMisconfigured, ModelUnavailable
from agentd.llm.address import Address, Strikes, linked_address, own_address
from agentd.llm.completion import Completion, collect
from agentd.llm.external import ExternalServer
from agentd.llm.faults import BUSY, BadAnswer, BrokenOff, Busy, CallRefused, check, json_object
from agentd.llm.retries import Retries
from agentd.llm.wire import HttpReply, Wire
from agentd.net.exchange import BROKEN, HTTPException
from agentd.net.wait import Deadline, Passed
from agentd.paths import Paths
from agentd.process.supervisor_link import SupervisorLink

QUEUE_WAIT_MAX_S = 600.0  # of one call in the server's queue; the session is then cut and resumes
SHORT_CALL_S = 30.0  # for /tokenize, waiting for a busy server included
CHAT = "/chat/completions"
LEAST_CALL = "Say: ok"  # what any model server can be asked
QUEUED, ADMITTED = b": queued", b": admitted"  # our server's comments in the event stream


class Endpoint:
    """A model server as one agent sees it. Not for several threads, except `close`."""

    def __init__(
        self,
        find: Callable[[], Address],
        *,
        own: bool,
        context_window: int | None = None,
        clock: Clock | None = None,
        queue_wait_s: float = QUEUE_WAIT_MAX_S,
        http: Wire | None = None,
        doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self.own = own  # our own server: it masks, so a malformed answer is never asked again
        self.masks = self.logprobs = True  # until the server says that it does not
        self.context_window = context_window
        self._clock = clock or SystemClock()
        self.queue_wait_s = queue_wait_s
        self._wire = http or Wire(keep=True)
        self._retries = Retries(find, doubt, self._wire, self._clock, own=own)
        self._strikes: dict[str, Strikes] = {}  # by path, of the last call; it may come again

    @classmethod
    def discover(
        cls,
        paths: Paths,
        config: ModelConfig,
        clock: Clock | None = None,
        link: SupervisorLink | None = None,
    ) -> "Endpoint":
        """Return the configured server: `[model] url`, or our own.

        A worker asks its supervisor, by `link`, for a way there; others read run/model.json.

        No connection is kept to another server nearby. Such have a few threads, each of which stays
        with a connection for as long as it is kept (llama.cpp's: yhirose/cpp-httplib#1410), while
        other agents' calls wait; and a new one costs little there, without TLS.
        """
        http = Wire(keep=config.url is None or config.url.startswith("https:"))
        if config.url is None:
            find = partial(own_address, paths)
            if link is not None and link.there:
                find = partial(linked_address, link, http.cancel)
            return cls(find, own=True, clock=clock, http=http)
        server = ExternalServer(config, http, clock or SystemClock(), paths, link)
        window = config.context_window
        return cls(
            server.address,
            own=False,
            context_window=window,
            clock=clock,
            http=http,
            doubt=server.doubt,
        )

    def model(self) -> str:
        """Return the model's name there, waiting for the server where only that knows it.

        Raises:
            ModelUnavailable, ModelMisconfigured, Stopped: see `chat`.
        """
        wait_s = min(SHORT_CALL_S, self.queue_wait_s)
        return self._retries(lambda a, _: a.model, wait_s, wait_s, lambda: None, Strikes())

    def close(self) -> None:
        """End the running call with Stopped in its thread and refuse further ones."""
        self._wire.cut()

    def chat(
        self,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        deadline_s: float,
        progress: Callable[[], None],
    ) -> Completion:
        """Post a chat completion and collect its stream.

        Raises:
            ModelUnavailable, CallDeadline, MaskRefused, ModelError, Stopped: see `LLM.decide`.
            ModelMisconfigured: an external server, and only a person can help.
        """

        def once(address: Address, deadline: Deadline) -> Completion:
            queued = Deadline(self._clock, self.queue_wait_s)

            def tick(line: bytes) -> None:
                progress()
                if not self.own:
                    return  # the comments are our own server's words
                if line.startswith(QUEUED) and queued.left() <= 0:
                    raise ModelUnavailable(
                        f"the call waited {self.queue_wait_s:.0f} s in the model server's queue",
                        hint="it is overloaded: fewer agents, or a faster model",
                    )
                if line.startswith((QUEUED, ADMITTED)):
                    deadline.restart(deadline_s)

            return self._complete(address, deadline, body, headers, tick)

        busy_s = max(deadline_s, self.queue_wait_s)
        strikes = self._against(CHAT, body)
        try:
            return self._retries(once, deadline_s, busy_s, progress, strikes)
        except CallRefused as error:
            if not self.own:
                self._blame_server_or_event(error, body, headers, progress)
            raise

    def _blame_server_or_event(
        self,
        error: CallRefused,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        progress: Callable[[], None],
    ) -> None:
        """Clear the event of blame where the server refuses the least of calls as well.

        Servers say in thousands of ways what is wrong with them. So they are asked, once.

        Raises:
            ModelMisconfigured: it refuses that, too.
            ModelUnavailable: it cannot answer that, either.
        """
        least = {key: value for key, value in body.items() if key != "response_format"}
        least["messages"] = [{"role": "user", "content": LEAST_CALL}]
        deadline = Deadline(self._clock, SHORT_CALL_S)
        try:
            progress()
            address = self._retries.address()
            self._complete(address, deadline, least, headers, lambda _line: progress())
        except Passed:
            return  # slow: that speaks neither for the event nor against it
        except CallRefused as refusal:
            raise ModelMisconfigured(
                refusal.what,
                where="[model] url",
                hint="it refuses any call, also the least: see the model server's log",
            ) from refusal
        except (Busy, BadAnswer, *BROKEN) as failure:
            raise ModelUnavailable(
                f"the model server cannot be used: {failure}",
                where=self._retries.url,
                hint="it fails at any call, also the least: see the model server's log",
            ) from failure

    def _complete(
        self,
        address: Address,
        deadline: Deadline,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        tick: Callable[[bytes], None],
    ) -> Completion:
        full = {
            "model": address.model,
            **body,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with self._post(address.url + CHAT, address, deadline, full, headers) as reply:
            check(reply, self.own, body)
            with self._crashing(*BROKEN):
                return collect(reply, tick, self.own, body)

    def tokenize(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Ask /tokenize (vLLM's names: `count`, `max_model_len`); None where there is none."""
        # Nobody is told meanwhile that this process lives, so it ends well before a promise does.
        return self.ask("/tokenize", body, {}, min(SHORT_CALL_S, self.queue_wait_s))

    def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        wait_s: float,
    ) -> Mapping[str, Any] | None:
        """Post what is answered by a JSON object; None of a server without it.

        Raises:
            ModelUnavailable: also where `wait_s` is over. What a call itself may take, our server
                knows and says; then it is the queue, or it stands still.
            CallDeadline, ModelError, Stopped: see `chat`.
        """

        def once(address: Address, deadline: Deadline) -> Mapping[str, Any] | None:
            url, full = address.url.removesuffix("/v1") + path, {"model": address.model, **body}
            with self._post(url, address, deadline, full, headers) as reply:
                if not self.own and reply.status not in (200, 401, *BUSY):
                    return None
                check(reply, self.own)
                try:
                    return json_object(reply.body())
                except BadAnswer:
                    if self.own:
                        raise
                    return None  # a page for whatever is asked

        def within(address: Address, deadline: Deadline) -> Mapping[str, Any] | None:
            try:
                with self._crashing(*(HTTPException,) if self.own else ()):  # closed, no answer
                    return once(address, deadline)
            except Passed as error:
                raise ModelUnavailable(
                    f"the model server did not answer within {wait_s:g} s",
                    where=address.url,
                    hint="it is overloaded, or stands still: `agentd status` shows which",
                ) from error

        return self._retries(within, wait_s, wait_s, lambda: None, self._against(path, body))

    def _against(self, path: str, body: Mapping[str, Any]) -> Strikes:
        """Return what speaks against a call so far: it may be made again after a cut.

        However its schema is named, it is the same call.
        """
        call = hash(_json({key: value for key, value in body.items() if key != "response_format"}))
        if path not in self._strikes or self._strikes[path].call != call:
            self._strikes[path] = Strikes(call)
        return self._strikes[path]

    @contextmanager
    def _crashing(self, *lost: type[Exception]) -> Iterator[None]:
        """Tell a server that dies over a call from one that is down: the call may be the reason."""
        try:
            yield
        except Passed:
            raise
        except lost as error:
            self._wire.check()
            raise BrokenOff(f"the model server's answer broke off: {error}") from error

    def _post(
        self,
        url: str,
        address: Address,
        deadline: Deadline,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> HttpReply:
        sent = {"Content-Type": "application/json", "Accept": "text/event-stream", **headers}
        if address.key:
            sent["Authorization"] = f"Bearer {address.key}"
        data = _json(body).encode()
        return self._wire.send(
            "POST", url, deadline, body=data, headers=sent, connect=address.connect
        )


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
