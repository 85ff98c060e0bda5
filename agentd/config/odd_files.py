"""What a person does not see in a file that cannot be read: a link, a space that is none.

Editors, web pages and copies put it there. An error names it, since looking at the file shows
nothing.
"""

import errno
import re
import stat
import unicodedata
from pathlib import Path

CURLY = frozenset("\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb")  # for quotes
CURLY_HINT = 'write straight quotes (") in the place of curly ones'
CR_HINT = "its lines end with CR alone, as on old Macs: save it with the line ends of Unix (LF)"
LINE = re.compile(r"at line (\d+)")  # of an error of tomllib


def no_file(path: Path) -> str:
    """Return what stands at a path where no file can be read."""
    try:
        mode = path.stat().st_mode
    except ValueError:  # a name that can be no file's, as of a row that somebody changed
        return "there is no such file"
    except OSError as error:
        if not path.is_symlink():
            return "there is no such file"
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        return f"a link to {path.readlink()}, which is not there"
    return "a folder, and no file" if stat.S_ISDIR(mode) else "not a file"


def toml_hint(text: str, error: str) -> str:
    """Return what to do about a text that is no TOML, where `error` is tomllib's word for it."""
    if re.search(r"\r(?!\n)", text):
        return CR_HINT
    found = LINE.search(error)
    line = text.split("\n")[int(found[1]) - 1] if found else text
    if CURLY & set(line):
        return f"{CURLY_HINT}, and correct that line"
    if odd := next(filter(_is_unseen, line), None):
        name = unicodedata.name(odd, "a control character")
        return f"that line holds {name} (U+{ord(odd):04X}), which is not seen: remove it"
    return "correct that line"


def _is_unseen(char: str) -> bool:
    """Whether it takes no ink, and TOML knows it for no space."""
    return char not in " \t\r\n" and unicodedata.category(char) in ("Zs", "Zl", "Zp", "Cf", "Cc")
