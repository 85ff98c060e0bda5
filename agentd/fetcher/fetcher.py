"""The fetcher's loop: what the supervisor hands over, what agents and programs ask; and its end."""

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from agentd.fetcher.agent_calls import AgentCalls
from agentd.fetcher.proxy import Proxy
from agentd.fetcher.resolver import resolver_state
from agentd.process.channel import Channel, ChannelClosed
from agentd.process.heart import Heart
from agentd.process.stop import Stop

BEAT_S = 5.0
PROMISE_S = 30.0


class Fetcher:
    """Serves until the supervisor stops it, or is gone.

    By `control` come documents with a descriptor each: ``{"agent": NAME, "net": HOSTS}`` with a
    channel for that agent's calls, in the place of its last one (``"posts"``: for those of what
    sends results, and ``"waits"`` where these wait for others); and ``{"proxy": NUMBER, "secret":
    TEXT, "net": HOSTS}`` with a socket that listens for some hands' programs, until ``{"end":
    NUMBER}``.
    """

    def __init__(self, control: socket.socket, heart: Heart) -> None:
        self._socket, self._control = control, Channel(control)
        self._heart = heart
        self._agents: dict[str, AgentCalls] = {}
        self._proxies: dict[int, Proxy] = {}
        self._used = time.monotonic()
        self._told_busy, self._told_at = False, float("-inf")
        self._resolver = resolver_state()

    def run(self, stop: Stop) -> None:
        """Serve; at the end answer what was begun, and say that nothing else was."""
        with suppress(ChannelClosed):  # the supervisor is gone, and with it this process
            while not stop.asked:
                self._beat()
                self._round(stop)
            self._socket.shutdown(socket.SHUT_RD)  # what comes later, another fetcher gets
            self._take_over()
        for calls in self._agents.values():
            calls.end()

    def _beat(self) -> None:
        """Say how it goes, and whether our sandbox still has what names are looked up with."""
        busy = any(calls.busy for calls in self._agents.values())
        busy = busy or any(proxy.busy for proxy in self._proxies.values())
        now = time.monotonic()
        if busy == self._told_busy and now - self._told_at < BEAT_S:
            return
        self._told_busy, self._told_at = busy, now
        self._used = now if busy else self._used
        self._heart.beat(
            PROMISE_S,
            "busy" if busy else "idle",
            idle_s=round(now - self._used, 1),
            stale=resolver_state() != self._resolver,
        )

    def _round(self, stop: Stop) -> None:
        """Do what comes first, before the next beat. Raises ChannelClosed."""
        sources: dict[int, Callable[[], None]] = {
            self._control.fileno(): self._take_over,
        }
        for name, calls in self._agents.items():
            sources[calls.fileno()] = partial(self._take, name)
        for proxy in self._proxies.values():
            sources[proxy.listening.fileno()] = proxy.accept
        poll = select.poll()
        for fd in (stop.fileno(), *sources):
            poll.register(fd, select.POLLIN)
        found = poll.poll(BEAT_S * 1000)
        for fd, _ in found if not stop.asked else ():
            sources[fd]()

    def _take_over(self) -> None:
        while (found := self._control.receive_now()) is not None:
            document, fds = found
            net = tuple(document.get("net", ()))
            if "agent" in document:
                name = document["agent"]
                if (before := self._agents.pop(name, None)) is not None:
                    before.close()
                place = "deliver" if document.get("posts") else "fetcher"
                waits = document.get("waits") is True
                channel = socket.socket(fileno=fds[0])
                self._agents[name] = AgentCalls(channel, net, place, waits=waits)
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
