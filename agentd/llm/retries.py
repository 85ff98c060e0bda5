"""The rules by which calls to a model server wait, try again and give up.

Down, loading or full is ModelUnavailable after a bounded wait; what the server refuses for good is
ModelError.
"""

import random
from collections.abc import Callable
from typing import TypeVar

from agentd.clock import Clock
from agentd.errors import CallDeadline, ModelError, ModelMisconfigured, ModelUnavailable
from agentd.llm.address import Address, NotThere, Strikes
from agentd.llm.faults import BadAnswer, BrokenOff, Busy, CallRefused, is_not_http
from agentd.llm.wire import Wire
from agentd.macos.privacy import network_hint
from agentd.net.exchange import BROKEN
from agentd.net.wait import Deadline, Passed

PROGRESS_S = 10.0  # between two signs of life while waiting to try again
RETRY_FIRST_S = 0.1  # a worker may start a moment before the model server
RETRY_MAX_S = 5.0
BAD_ANSWERS_MAX = 3  # of one call: no event stream, 500, or a crash of the server

T = TypeVar("T")


class Retries:
    """Makes calls of one endpoint, to where `find` says that its server is.

    `doubt` is called where a person may have to correct what `find` goes by. `own`: it is our own
    server.
    """

    def __init__(
        self,
        find: Callable[[], Address],
        doubt: Callable[[], None],
        wire: Wire,
        clock: Clock,
        *,
        own: bool,
    ) -> None:
        self._find, self._doubt, self._wire, self._clock = find, doubt, wire, clock
        self._own = own
        self._address: Address | None = None  # None: to be found anew
        self.url = "model.json" if own else "[model] url"  # for messages

    def address(self) -> Address:
        """Return where the server is, as far as it is known to be there."""
        self._address = self._address or self._find()
        self.url = self._address.url
        return self._address

    def __call__(
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
                address = self.address()
                strikes.found(address)
                if strikes.bad >= BAD_ANSWERS_MAX:
                    raise BadAnswer("the model server crashes over this call")
                return once(address, Deadline(self._clock, deadline_s))
            except Passed as error:
                raise CallDeadline(
                    f"the model did not answer within {deadline_s:.0f} s of the call's admission",
                    where=self.url,
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
                    self._address = None  # a person may correct it meanwhile
                    self._doubt()
                    raise
                if is_not_http(error) and not self._own:
                    raise ModelMisconfigured(
                        f"what answers there does not speak HTTP: {error}",
                        where="[model] url",
                        hint="is it an https server, or another program's port?",
                    ) from error
                problem, wait = error, pause
            except BadAnswer as error:
                if self._own and isinstance(error, BrokenOff) and self._address is not None:
                    strikes.broke_off(self._address)
                else:
                    strikes.bad += 1
                if strikes.bad >= BAD_ANSWERS_MAX:
                    strikes.bad = 0  # another session may try the same
                    raise CallRefused(
                        str(error), where=self.url, hint="see the model server's log"
                    ) from error
                problem, wait = error, pause
            self._address = None  # the server may have come back elsewhere, with another token
            if over.left() <= wait:
                raise ModelUnavailable(
                    f"the model server cannot be used: {problem}",
                    where=self.url,
                    hint="`agentd status` shows whether it runs"
                    if self._own
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
