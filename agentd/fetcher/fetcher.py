"""The fetcher's loop: what the supervisor hands over, what agents and programs ask; and its end."""

import select
import socket
import time
from contextlib import suppress
from functools import partial

from agentd.fetcher.agent_calls import AgentCalls
from agentd.fetcher.policy import resolver_state
from agentd.fetcher.proxy import Proxy
from agentd.process.channel import BYE, Channel, ChannelClosed
from agentd.process.heart import Heart
from agentd.process.supervisor_link import channel_of

READY = "ready"  # in its first frame, once it is in its sandbox; else that has an error
BEAT_S = 5.0
PROMISE_S = 30.0
IDLE_S = 60.0  # without a call, and nobody's programs


class Fetcher:
    """Serves until the supervisor is gone, or nobody has needed it for `idle_s`.

    By `control` come, once it has said that it is ready, documents with a descriptor each:
    ``{"agent": NAME, "net": HOSTS}`` with a channel for that agent's calls, in the place of its
    last one; and ``{"proxy": NUMBER, "secret": TEXT, "net": HOSTS}`` with a socket that listens for
    some hands' programs, until ``{"end": NUMBER}``.
    """

    def __init__(self, control: socket.socket, heart: Heart, *, idle_s: float = IDLE_S) -> None:
        self._socket, self._control = control, Channel(control)
        self._heart, self._idle_s = heart, idle_s
        self._agents: dict[str, AgentCalls] = {}
        self._proxies: dict[int, Proxy] = {}
        self._used = time.monotonic()
        self._resolver = resolver_state()

    def run(self) -> None:
        """Serve; return at the end, which agents have been told of."""
        self._control.send({READY: True})
        while not self._unneeded():
            self._heart.beat(PROMISE_S, "busy" if self._busy else "idle")
            try:
                self._round(min(BEAT_S, self._idle_s))
            except ChannelClosed:  # the supervisor is gone
                return
        self._socket.shutdown(socket.SHUT_RD)  # what comes later, another fetcher gets
        with suppress(ChannelClosed):
            self._take_over()
        for calls in self._agents.values():
            calls.say({BYE: True})

    @property
    def _busy(self) -> bool:
        calling = any(calls.busy for calls in self._agents.values())
        return calling or any(proxy.busy for proxy in self._proxies.values())

    def _unneeded(self) -> bool:
        """Whether nothing is under way, and nothing is to be expected, or possible, here."""
        now = time.monotonic()
        if self._busy:
            self._used = now
            return False
        if resolver_state() != self._resolver:
            return True  # its files were replaced, and our sandbox has only the old ones
        return not self._proxies and now - self._used > self._idle_s

    def _round(self, wait_s: float) -> None:
        """Do what comes first within the time. Raises ChannelClosed."""
        poll, sources = select.poll(), {self._control.fileno(): self._take_over}
        for name, calls in self._agents.items():
            sources[calls.channel.fileno()] = partial(self._take, name)
        for proxy in self._proxies.values():
            sources[proxy.listening.fileno()] = proxy.accept
        for fd in sources:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(wait_s * 1000):
            self._used = time.monotonic()
            sources[fd]()

    def _take_over(self) -> None:
        while (found := self._control.receive_now()) is not None:
            document, fds = found
            net = tuple(document.get("net", ()))
            if "agent" in document:
                name = document["agent"]
                if (before := self._agents.pop(name, None)) is not None:
                    before.close()
                self._agents[name] = AgentCalls(channel_of(fds), net)
            elif "proxy" in document:
                listening = socket.socket(fileno=fds[0])
                self._proxies[document["proxy"]] = Proxy(listening, document["secret"], net)
            elif (proxy := self._proxies.pop(document["end"], None)) is not None:
                proxy.close()

    def _take(self, name: str) -> None:
        if (calls := self._agents.get(name)) is None:
            return  # it was replaced this moment
        try:
            calls.take()
        except ChannelClosed:
            calls.close()
            del self._agents[name]
