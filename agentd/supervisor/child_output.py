"""What children print, as bounded log lines: no raw file, no flood, no blocked child."""

from agentd.clock import Clock
from agentd.logs.logger import Logger
from agentd.secret_rules import REDACTED, hide

LINE_BYTES_MAX = 2_000  # a longer printed line is cut
LAST_BYTES = 16_000  # in which its last words are looked for; a fault's report has many lines
BURST_LINES = 100  # that are logged at once
LINES_PER_S = 2.0  # that are logged for ever
KEY_LINES_MAX = 200  # of a private key that somebody prints; its end may be cut off


class ChildOutput:
    """One child's stdout and stderr. Feed it what was read; it logs what fits."""

    def __init__(self, name: str, log: Logger, clock: Clock) -> None:
        self._name, self._log, self._clock = name, log, clock
        self._credit = float(BURST_LINES)
        self._at = clock.monotonic()
        self._rest = b""
        self._skipping = False  # inside a line whose start was logged already
        self._lost_bytes = 0
        self._last = b""
        self._key_lines = 0  # that may still come of a private key

    def feed(self, data: bytes) -> None:
        """Take what the child printed; it is always taken, so that the child never blocks."""
        self._refill()
        self._last = (self._last + data[-LAST_BYTES:])[-LAST_BYTES:]
        if self._credit < 1:
            self._lost_bytes += len(data)
            self._rest, self._skipping = b"", not data.endswith(b"\n")
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
                self._lost_bytes += len(line)
            else:
                self._line(line)
        if len(self._rest) > LINE_BYTES_MAX:
            if not self._skipping:
                self._line(self._rest)
            self._rest, self._skipping = b"", True

    def end(self) -> str:
        """The child is gone: log what is left and return its last words, "" if it said nothing."""
        if self._rest:
            self._line(self._rest)
        self._log_lost()
        lines = [line.strip() for line in _text(self._last).splitlines() if line.strip()]
        self._rest, self._last, self._skipping = b"", b"", False
        words = _fault(lines) or (lines[-1] if lines else "")
        return hide(words)[:300]

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        if self._credit < 1:
            self._lost_bytes += len(line)
            return
        self._log_lost()
        self._credit -= 1
        cut = {"cut_bytes": len(line) - LINE_BYTES_MAX} if len(line) > LINE_BYTES_MAX else {}
        text = _text(line[:LINE_BYTES_MAX])
        if "-----BEGIN" in text and "PRIVATE KEY" in text:
            self._key_lines = KEY_LINES_MAX
        if self._key_lines:  # none of them alone looks like a secret
            ended = "-----END" in text.rpartition("-----BEGIN")[2]
            self._key_lines = 0 if ended else self._key_lines - 1
            text = REDACTED
        self._log.info("child.output", agent=self._name, line=text, **cut)

    def _log_lost(self) -> None:
        if self._lost_bytes:
            lost, self._lost_bytes = self._lost_bytes, 0
            self._log.warning("child.output_lost", agent=self._name, bytes=lost)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._credit = min(BURST_LINES, self._credit + (now - self._at) * LINES_PER_S)
        self._at = now


def _fault(lines: list[str]) -> str:
    """Return what faulthandler wrote of a fatal error, and where it was; "" if it wrote nothing.

    Its last line is a list of modules, which says nothing to anybody.
    """
    fatal = [n for n, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if not fatal:
        return ""
    current = [n for n in range(fatal[-1], len(lines)) if lines[n].startswith("Current thread")]
    place = lines[current[0] + 1 :][:1] if current else []
    return ", ".join([lines[fatal[-1]], *place])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace").rstrip("\r")
