"""Something long, shown: a bar where a person watches a terminal, plain lines elsewhere."""

import shutil
import sys
from typing import TextIO

from agentd.commands.output import plain, rewrite, say, shorten

STEPS = 4  # plain lines are printed at each quarter
BAR_CHARACTERS = 24


class ProgressLine:
    """Called as `models.Progress` is; close it with `done` so that the next line starts afresh."""

    def __init__(self, stream: TextIO | None = None, indent: str = "", unit: str = "") -> None:
        self._stream = stream or sys.stderr
        self._indent = indent
        self._unit = unit  # what is counted, where it is not bytes
        self._tty = self._stream.isatty()
        self._said: tuple[str, int] | None = None
        self._open = False  # a bar stands on the current line

    def __call__(self, done: int, total: int, label: str) -> None:
        """Show `done` of `total` bytes or units (0: not known) of what `label` says."""
        if self._tty:
            self._bar(done, total, label)
            return
        step = (label, done * STEPS // total if total else 0)
        if step != self._said:
            self._said = step
            say(f"{self._indent}{self._text(done, total, label)}", file=self._stream, flush=True)

    def say(self, label: str, aside: str = "") -> None:
        """Show what is going on, without a bar; `aside` may change often: for terminals alone."""
        self(0, 0, f"{label} ({aside})" if self._tty and aside else label)

    def clear(self) -> None:
        """Take the bar away, so that other lines can be printed."""
        if self._open:
            rewrite("", self._stream)
            self._open = False

    def done(self) -> None:
        """Leave the bar's line."""
        if self._open:
            say(file=self._stream, flush=True)
            self._open = False

    def _bar(self, done: int, total: int, label: str) -> None:
        if self._open and total and self._said and self._said[0] != label:
            self.done()
        self._said, self._open = (label, 0), True
        filled = min(BAR_CHARACTERS, done * BAR_CHARACTERS // total) if total else 0
        bar = f"[{'#' * filled}{'.' * (BAR_CHARACTERS - filled)}] " if total else ""
        line = shorten(
            f"{self._indent}{bar}{self._text(done, total, label)}",
            shutil.get_terminal_size().columns - 1,
        )
        rewrite(line, self._stream)

    def _text(self, done: int, total: int, label: str) -> str:
        label = plain(label)  # before it is cut to the terminal's width
        if not total:
            return label
        if self._unit:
            return f"{label}: {done} of {total} {self._unit}"
        share = f"{100 * done // total:3d} %"
        return f"{label}: {share} of {total / 1e6:.0f} MB" if done < total else label
