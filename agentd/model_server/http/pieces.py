"""The way of answers from the engine's thread to the event loop: one wake-up for all of a step."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from agentd.model_server.calls import Piece, TokenLogprob


class Deliveries:
    """Takes the pieces of all calls to the event loop.

    Waking the loop gives Python's lock away. A wake-up for each piece made the engine's thread wait
    once for each row of a step, and the loop's thread look at its sockets as often.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: deque[tuple[Pieces, Piece]] = deque()
        self._held = False
        self._woken = False  # the loop was, and has not come to it

    def pieces(self) -> "Pieces":
        """Return the progress of a new call; on the loop."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop, self._woken = loop, False
        return Pieces(self)

    def put(self, pieces: "Pieces", piece: Piece) -> None:
        """Send a piece on its way; from any thread."""
        self._under_way.append((pieces, piece))
        if not self._held:
            self._wake()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Wake the loop once for what is put in this context, at its end. For one thread only."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._under_way:
                self._wake()

    def _wake(self) -> None:
        if self._loop is None or self._woken:
            return
        self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._arrive)

    def _arrive(self) -> None:
        self._woken = False  # first: what is put from here on has a wake-up of its own
        while self._under_way:
            pieces, piece = self._under_way.popleft()
            pieces.add(piece)


class Pieces:
    """A call's progress.

    What nobody has fetched yet is joined into one piece, so that a slow reader costs no more
    memory than its answer's text.
    """

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None  # somebody is, for what is new
        self._some = False
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._admitted = False
        self._last: Piece | None = None

    def emit(self, piece: Piece) -> None:
        """Add a piece; from any thread."""
        self._deliveries.put(self, piece)

    def add(self, piece: Piece) -> None:
        """Add a piece that has come to the loop."""
        self._text.append(piece.text)
        self._logprobs += piece.logprobs
        self._admitted = self._admitted or piece.admitted
        self._last = piece if piece.last else self._last
        self._some = True
        self._end_wait()

    async def get(self, timeout_s: float | None = None) -> Piece:
        """Wait for what is new.

        Raises:
            TimeoutError: nothing came within `timeout_s`.
        """
        if not self._some:
            await self._wait(timeout_s)
        if not self._some:
            raise TimeoutError
        text = self._text[0] if len(self._text) == 1 else "".join(self._text)
        admitted, logprobs, last = self._admitted, tuple(self._logprobs), self._last
        self._some, self._admitted = False, False
        self._text, self._logprobs = [], []
        if last is not None:
            return replace(last, text=text, admitted=admitted, logprobs=logprobs)
        return Piece(text, admitted=admitted, logprobs=logprobs)

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait, without the task of its own that asyncio.wait_for makes for each piece."""
        self._waiting = self._loop.create_future()
        late = None if timeout_s is None else self._loop.call_later(timeout_s, self._end_wait)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if late is not None:
                late.cancel()

    def _end_wait(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
