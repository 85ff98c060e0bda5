"""The one place that prints for people: text of others cannot drive the terminal.

Payloads, logs, file names and errors carry text from outside. Escape codes in it could rewrite the
screen, marks of direction could show it in another order, a line break could forge a line. All of
these are shown, not obeyed. Only the colours that `colour` sets are real.
"""

import io
import os
import select
import shutil
import sys
import threading
import unicodedata
from typing import Self, TextIO

DIM, BOLD, RED, YELLOW, GREEN = "2", "1", "31", "33", "32"
# Stands for the escape character of our own colours until they are printed. Nobody can guess it.
_MARK = f"\x1b{os.urandom(8).hex()}"
_ERASE = "\r\x1b[K"  # back to the start of the line, and empty it

_HOME, _ERASE_REST, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


def plain(text: str) -> str:
    """Return text as one line without control characters: they are written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if _printable(c) else c.encode("unicode_escape").decode() for c in text)


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters of `text`, with a visible marker where it was cut."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}...[cut {len(text) - limit} characters]"


def shorten(text: str, length: int) -> str:
    """Cut a text to `length` characters, visibly."""
    return text if len(text) <= length else text[: length - 1] + "…"


def counted(number: int, what: str, plural: str = "s") -> str:
    """Return a number of things in words, as "1 file" or "2 files"."""
    return f"{number} {what}{'' if number == 1 else plural}"


def duration(seconds: float) -> str:
    """Render a length of time in at most two units: `4.2s`, `3m 05s`, `2h 10m`, `3d 4h`."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def plain_lines(text: str) -> str:
    """Return text without control characters but its line breaks."""
    return "\n".join(map(plain, text.split("\n")))


def _printable(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def terminal_width() -> int | None:
    """Return how many characters fit a line, None where no terminal shows them."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def colour(text: str, code: str) -> str:
    """Colour a text where a person at a terminal reads it, and NO_COLOR does not forbid it."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # no-color.org: "" is none
    return f"{_MARK}{code}m{text}{_MARK}0m" if wanted else text


def say(line: str = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line, on stdout or on `file`."""
    print(_shown(line), file=file or sys.stdout, flush=flush)


def say_lines(text: str, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text of several lines; line breaks in what it is made of make lines, too."""
    for line in text.split("\n"):
        say(line, file=file, flush=flush)


def note(text: str, *more: str) -> None:
    """Tell the person something beside the command's result, on stderr: a line each."""
    for line in (f"agentd: {text}", *more):
        say(line, file=sys.stderr)


def rewrite(line: str, file: TextIO) -> None:
    """Put a line in the place of the terminal's current one, without a line break."""
    print(f"{_ERASE}{_shown(line)}", end="", file=file, flush=True)


def pause(seconds: float) -> None:
    """Wait before the next look at what is followed.

    Raises:
        BrokenPipeError: nobody reads any more (`| head -1`, `| grep -m1`); a write would say so,
            but there may be nothing to write for long.
    """
    threading.Event().wait(seconds)
    try:
        output = sys.stdout.fileno()
    except OSError:  # a test's, that is no file
        return
    look = select.poll()
    # Asked for something that never comes: with nothing, macOS tells no hang-up (as GNU tail does).
    look.register(output, select.POLLRDBAND)
    if any(said & (select.POLLERR | select.POLLHUP) for _, said in look.poll(0)):
        raise BrokenPipeError


class Captured(io.StringIO):
    """Takes what is printed inside its `with`, as the terminal would get it; for `redraw`."""

    def __enter__(self) -> Self:
        """Take the place of standard output, and of the notes on stderr, which it would wipe."""
        self._before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        sys.stdout, sys.stderr = self._before

    def isatty(self) -> bool:
        """Whether colours are shown: as where it will be printed."""
        return self._before[0].isatty()


def redraw(screen: str) -> None:
    """Put what was captured in the place of all that the terminal shows, as far as it fits."""
    lines, room = screen.rstrip("\n").split("\n"), max(2, shutil.get_terminal_size().lines - 1)
    if len(lines) > room:
        lines[room - 1 :] = [f"... and {counted(len(lines) - room + 1, 'line')} more"]
    shown = f"{_ERASE_REST}\n".join(lines)
    # No line is wrapped meanwhile: it would push others off the screen.
    sys.stdout.write(f"{_HOME}{_NO_WRAP}{shown}{_ERASE_REST}\n{_ERASE_BELOW}{_WRAP}")
    sys.stdout.flush()


def _shown(line: str) -> str:
    first, *rest = line.split(_MARK)
    parts = [_tabbed(first)]
    for part in rest:
        code, _, after = part.partition("m")
        parts.append(f"\x1b[{code}m{_tabbed(after)}")
    return "".join(parts)


def _tabbed(text: str) -> str:
    """A tab drives nothing, and files that are printed have some."""
    return "\t".join(map(plain, text.split("\t")))
