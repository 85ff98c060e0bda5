"""Patterns of texts, as they are written for a compiler."""

import re

# Free text has no controls but these: \t, \n and \r.
CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f"
_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]", re.DOTALL)
_FROM_NUL = re.compile(r"(?:\\x00|\\u0000|\0)-(\\x..|\\u....|.)", re.DOTALL)


def without_controls(pattern: str) -> str:
    """Return a pattern whose classes of characters have no control in them.

    A class with all of them is read by llguidance 1.9 as if it had quote and backslash as well:
    `[^"]` took what it bars.
    """
    return _CLASS.sub(_less, pattern)


def _less(found: re.Match[str]) -> str:
    text = found[0]
    if text.startswith("[^"):
        first = "\\" if text[2] in "-]" and len(text) > 3 else ""
        return f"[^{CONTROLS}{first}{text[2:]}"
    return _FROM_NUL.sub(_from_space, text) if text.startswith("[") else text


def _from_space(found: re.Match[str]) -> str:
    last = found[1]
    code = int(last[2:], 16) if len(last) > 1 else ord(last)
    return r"\t\n\r" + (f" -{last}" if code >= 0x20 else "")
