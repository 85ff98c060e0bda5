"""Mailboxes on this machine, Maildir and mbox, as they lie in a folder that may be read; in hands.

The standard library's `mailbox` opens a path: an mbox for writing, and any by way of a link that
was put there meanwhile. Here nothing is written: no flag is set, and no mail moves from `new` to
`cur`.
"""

import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from agentd.errors import ToolError
from agentd.events import Result
from agentd.macos import privacy
from agentd.tools.base import ToolCall
from agentd.tools.closed import Marks
from agentd.tools.mail import KNOWN, MESSAGE_BYTES, fresh
from agentd.tools.mail_message import digest, key_of, read_message, unreadable
from agentd.tools.place import Place, folder_of, locate, opened

PIECE_BYTES = 1_000_000  # of an mbox, read at a time
KEY_BYTES = 16_000  # of a mail in an mbox, in which its Message-ID is looked for
EMPTIED = 50  # mails in a mailbox of which none is known: it was emptied, and these are new
NEXT = re.compile(rb"\n\r?\n(?=From )")  # where a mail of an mbox ends
QUOTED = re.compile(rb"(?m)^>(>*From )")  # a line of a mail that began so
MAILDIR = ("cur", "new")
NUMBER = re.compile(r"[0-9]{1,18}")

Mailbox = tuple[Sequence[str], Callable[[int], bytes]]  # keys, the oldest first; and what reads one


def read_mailbox(
    call: ToolCall, path: str, most: int, keys: Sequence[str] | None, whole: bool
) -> Result:
    """Give the mails that are new, the oldest first; and `keys` and `whole` for the next time.

    `keys` are those that were remembered, None the first time: then none is new, as none is in
    another mailbox (`replaced`). `whole`: at that time the mailbox held no others.
    """
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.read, marks)
    try:
        with _mailbox(call, place, marks) as (there, read):
            emptied = len(there) <= EMPTIED and not set(keys or ()) & set(there)
            new = None if keys is None else fresh(there, keys, whole=whole or emptied)
            mails = {}
            for index in (new or ())[:most]:
                call.check()
                with suppress(FileNotFoundError):  # it is moved at this moment: the next time
                    mails[index] = _read(read, index)
    except ToolError as error:
        raise type(error)(f"{place.name} {error.what}") from error
    except OSError as error:
        raise ToolError(f"{place.name}: {privacy.described(Path(place.path), error)}") from error
    known = set(keys or ())
    kept = [key for i, key in enumerate(there) if new is None or key in known or i in mails]
    value = {
        "messages": list(mails.values()),
        "more": len(new or ()) - len(mails),
        "keys": kept[-KNOWN:],
        "whole": (whole or new is None) and len(kept) <= KNOWN,
        "replaced": keys is not None and new is None,
    }
    return Result(value, trusted=False)


def _read(read: Callable[[int], bytes], index: int) -> dict[str, Any]:
    """Return what a mail says; one that may not be opened must not hold up those behind it."""
    try:
        return read_message(read(index))
    except (ToolError, PermissionError) as error:
        return unreadable(str(error))


def parse_mail(call: ToolCall, messages: Sequence[str]) -> Result:
    """Give what these mails say, which came from a server in base64."""
    told = []
    for data in messages:
        call.check()
        told.append(read_message(b64decode(data)))
    return Result({"messages": told}, trusted=False)


@contextmanager
def _mailbox(call: ToolCall, place: Place, marks: Marks) -> Iterator[Mailbox]:
    with ExitStack() as stack:
        if Path(place.path).is_dir():
            yield _maildir(place, marks, stack)
        elif not place.parts:
            raise ToolError("is not there")
        else:
            folder = stack.enter_context(folder_of(place, place.parts[:-1], marks))
            file = stack.enter_context(opened(place.parts[-1], folder, marks))
            yield _mbox(call, file)


def _maildir(place: Place, marks: Marks, stack: ExitStack) -> Mailbox:
    """Order by the numbers in their names: seconds first, then what else tells deliveries apart.

    A key is a mail's name without the flags behind the colon.
    """
    found = []
    try:
        folders = [stack.enter_context(folder_of(place, (*place.parts, n), marks)) for n in MAILDIR]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ToolError("is no mailbox: a Maildir has folders `cur` and `new`") from error
    for folder in folders:
        _, _, names, _ = next(os.fwalk(".", dir_fd=folder))
        for name in (name for name in names if not name.startswith(".")):
            found.append((tuple(map(int, NUMBER.findall(name))), name, folder))
    found.sort()

    def read(index: int) -> bytes:
        _, name, folder = found[index]
        with opened(name, folder, marks) as file:
            return file.read(MESSAGE_BYTES)

    return [digest(os.fsencode(name.partition(":")[0])) for _, name, _ in found], read


def _mbox(call: ToolCall, file: BinaryIO) -> Mailbox:
    """Order as it stands there. A key is of a mail's Message-ID."""
    starts = _starts(call, file)
    if not starts and file.tell():
        raise ToolError("is no mailbox: an mbox begins with `From `")
    ends = [*starts[1:], file.tell()]

    def read(index: int, limit: int = MESSAGE_BYTES) -> bytes:
        file.seek(starts[index])
        data = file.read(min(limit, ends[index] - starts[index])).partition(b"\n")[2]
        return QUOTED.sub(rb"\1", data)

    keys = []
    for index in range(len(starts)):
        call.check()
        keys.append(key_of(read(index, KEY_BYTES)))
    return keys, read


def _starts(call: ToolCall, file: BinaryIO) -> list[int]:
    """Return where each mail of an mbox begins; what is no mbox has none at 0, and gives none."""
    found, before, at = list[int](), b"\n\n", 0  # what is read begins behind an empty line
    while piece := file.read(PIECE_BYTES):
        call.check()
        data = before + piece
        for end in (match.end() + at - len(before) for match in NEXT.finditer(data)):
            if not found or end > found[-1]:
                found.append(end)
        before, at = data[-8:], at + len(piece)
    return found if found[:1] == [0] else []
