"""Where the model is, and calls to it that wait, retry and give up by one set of rules.

Down, loading or full is ModelUnavailable after a bounded wait; what the server refuses for good is
ModelError. A call's deadline counts from its admission: our own server writes `: queued` comments
into the event stream while a call waits, and each of them starts the deadline anew.
"""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from agentd.clock import Clock, SystemClock
from agentd.config.daemon import ModelConfig
from agentd.errors import CallDeadline, ModelError, ModelMisconfigured, ModelUnavailable
from agentd.llm import listing, wire
from agentd.llm.address import Address, NotThere, Strikes, own_address
from agentd.llm.completion import Completion, collect
from agentd.llm.faults import (
    BUSY,
    BadAnswer,
    BrokenOff,
    Busy,
    CallRefused,
    check,
    is_not_http,
    json_object,
)
from agentd.macos.privacy import network_hint
from agentd.net.exchange import BROKEN
from agentd.net.wait import Deadline, Passed
from agentd.paths import Paths

QUEUE_WAIT_MAX_S = 600.0  # of one call in the server's queue; the session is then cut and resumes
SHORT_CALL_S = 30.0  # for /tokenize, waiting for a busy server included
LIST_S = 5.0  # for a server to list its models
PROGRESS_S = 10.0  # between two signs of life while waiting to try again
LEAST_CALL = "Say: ok"  # what any model server can be asked
RETRY_FIRST_S = 0.1  # a worker may start a moment before the model server
RETRY_MAX_S = 5.0
BAD_ANSWERS_MAX = 3  # of one call: no event stream, 500, or a crash of the server
QUEUED, ADMITTED = b": queued", b": admitted"  # our server's comments in the event stream

T = TypeVar("T")


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
    ) -> None:
        self._find = find
        self._address: Address | None = None  # None: to be found anew
        self._url = "[model] url" if not own else "model.json"  # for messages
        self.own = own  # our own server: it masks, so a malformed answer is never asked again
        self.masks = self.logprobs = True  # until the server says that it does not
        self.context_window = context_window
        self._only: str | None = None  # the one model that the server has, once asked
        self._clock = clock or SystemClock()
        self.queue_wait_s = queue_wait_s
        self._wire = wire.Wire()
        self._strikes = Strikes()  # of the last call; it may be made again after a cut

    @classmethod
    def discover(cls, paths: Paths, config: ModelConfig, clock: Clock | None = None) -> "Endpoint":
        """Return the configured server: `[model] url`, or our own by run/model.json."""
        if config.url is None:
            return cls(lambda: own_address(paths), own=True, clock=clock)
        url, key_file = config.url.rstrip("/"), config.api_key_file
        named = config.name if config.named else None

        def find() -> Address:
            key = listing.read_key(key_file) if key_file else ""
            name = named or endpoint._only_model(url, key) or config.name
            return Address(url, name, key)

        endpoint = cls(find, own=False, context_window=config.context_window, clock=clock)
        return endpoint

    def model(self) -> str:
        """Return the model's name there, waiting for the server where only that knows it.

        Raises:
            ModelUnavailable, ModelMisconfigured, Stopped: see `chat`.
        """
        wait_s = min(SHORT_CALL_S, self.queue_wait_s)
        return self._retrying(lambda a, _: a.model, wait_s, wait_s, lambda: None, Strikes())

    def _only_model(self, url: str, key: str) -> str | None:
        """Return the one model of a server that [model] names none for; None: it does not say."""
        if self._only is None:
            deadline = Deadline(self._clock, LIST_S)
            try:
                names = listing.models(self._wire, url, key, deadline)
            except Passed as error:
                raise TimeoutError(f"no list of models within {LIST_S:g} s") from error
            if names is not None and len(names) != 1:
                raise ModelMisconfigured(
                    f"the model server has {len(names)} models: {', '.join(names)[:300]}",
                    where="[model] name",
                    hint="name the one to use",
                )
            self._only = names[0] if names else None
        return self._only

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

        call = hash(json.dumps(body, sort_keys=True))
        if self._strikes.call != call:
            self._strikes = Strikes(call)
        busy_s = max(deadline_s, self.queue_wait_s)
        try:
            return self._retrying(once, deadline_s, busy_s, progress, self._strikes)
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
            address = self._address or self._find()
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
                where=self._url,
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
        masked = "response_format" in body
        url = f"{address.url}/chat/completions"
        with self._post(url, address, deadline, full, headers) as reply:
            check(reply, self.own, masked)
            try:
                return collect(reply, tick, self.own, masked)
            except Passed:
                raise
            except BROKEN as error:
                # Not like a server that is down: this very call may be what crashes it.
                self._wire.check()
                raise BrokenOff(f"the model server's answer broke off: {error}") from error

    def tokenize(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Ask /tokenize (vLLM's names: `count`, `max_model_len`); None where there is none."""
        # Nobody is told meanwhile that this process lives, so it ends well before a promise does.
        wait_s = min(SHORT_CALL_S, self.queue_wait_s)
        try:
            return self.ask("/tokenize", body, {}, wait_s)
        except CallDeadline as error:
            # Counting takes no time: it stands still. Of our own its supervisor will find out.
            raise ModelUnavailable(
                f"the model server did not count within {wait_s:.0f} s", where=self._url
            ) from error

    def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        wait_s: float,
    ) -> Mapping[str, Any] | None:
        """Post what is answered by a JSON object; None of a server without it. See `chat`."""

        def once(address: Address, deadline: Deadline) -> Mapping[str, Any] | None:
            url, full = address.url.removesuffix("/v1") + path, {"model": address.model, **body}
            with self._post(url, address, deadline, full, headers) as reply:
                if not self.own and reply.status not in (200, 401, *BUSY):
                    return None
                check(reply, self.own, False)
                try:
                    return json_object(reply.body())
                except BadAnswer:
                    if self.own:
                        raise
                    return None  # a page for whatever is asked

        return self._retrying(once, wait_s, wait_s, lambda: None, Strikes())

    def _post(
        self,
        url: str,
        address: Address,
        deadline: Deadline,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> wire.HttpReply:
        sent = {"Content-Type": "application/json", "Accept": "text/event-stream", **headers}
        if address.key:
            sent["Authorization"] = f"Bearer {address.key}"
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return self._wire.send("POST", url, deadline, body=data, headers=sent)

    def _retrying(
        self,
        once: Callable[[Address, Deadline], T],
        deadline_s: float,
        busy_s: float,
        progress: Callable[[], None],
        strikes: Strikes,
    ) -> T:
        """Call `once` until it answers, fails for good, or the wait is over."""
        down = Deadline(self._clock, deadline_s)  # unreachable for as long as a call may take
        full = Deadline(self._clock, busy_s)
        pause = RETRY_FIRST_S
        while True:
            self._wire.check()
            over = down
            problem: Exception
            try:
                self._address = self._address or self._find()
                self._url = self._address.url
                strikes.found(self._address)
                if strikes.bad >= BAD_ANSWERS_MAX:
                    raise BadAnswer("the model server crashes over this call")
                return once(self._address, Deadline(self._clock, deadline_s))
            except Passed as error:
                raise CallDeadline(
                    f"the model did not answer within {deadline_s:.0f} s of the call's admission",
                    where=self._url,
                    hint="raise [model] call_deadline, or use a smaller model",
                ) from error
            except ModelError:
                self._address = None  # a person may correct the key or the name meanwhile
                raise
            except Busy as error:
                problem, over = error, full
                wait = max(pause, error.retry_after or 0.0)
            except (ModelUnavailable, *BROKEN) as error:
                self._wire.check()  # a cut connection looks like a broken one
                if isinstance(error, ModelUnavailable) and not isinstance(error, NotThere):
                    self._address = self._only = None  # a person may correct it meanwhile
                    raise
                if is_not_http(error) and not self.own:
                    raise ModelMisconfigured(
                        f"what answers there does not speak HTTP: {error}",
                        where="[model] url",
                        hint="is it an https server, or another program's port?",
                    ) from error
                problem, wait = error, pause
            except BadAnswer as error:
                if self.own and isinstance(error, BrokenOff) and self._address is not None:
                    strikes.broke_off(self._address)
                else:
                    strikes.bad += 1
                if strikes.bad >= BAD_ANSWERS_MAX:
                    strikes.bad = 0  # another session may try the same
                    raise CallRefused(
                        str(error), where=self._url, hint="see the model server's log"
                    ) from error
                problem, wait = error, pause
            self._address = None  # the server may have come back elsewhere, with another token
            if over.left() <= wait:
                raise ModelUnavailable(
                    f"the model server cannot be used: {problem}",
                    where=self._url,
                    hint="`agentd status` shows whether it runs"
                    if self.own
                    else network_hint(problem) or "is it running?",
                ) from problem
            self._pause(wait * random.uniform(0.8, 1.2), progress)
            pause = min(RETRY_MAX_S, pause * 2)

    def _pause(self, seconds: float, progress: Callable[[], None]) -> None:
        """Wait, saying now and then that this is no hang; the next call gets its time in full."""
        end = Deadline(self._clock, seconds)
        progress()
        while (left := end.left()) > 0:
            self._wire.wait(min(left, PROGRESS_S))
            progress()
