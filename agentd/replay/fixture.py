"""A fixture as folders and pages: what a replay's tools see in the place of the recorded world."""

import io
import os
import re
import socket
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from agentd.errors import RecordingError, ToolError
from agentd.replay import gitpack
from agentd.replay.recording import Fixture, Listing, Page

# What HFS+ leaves out of a name when it compares it; see git's utf8.c, `next_hfs_char`.
IGNORED = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF]
)
SHORT_NAME = re.compile(r"git~\d+")
DEVICE = re.compile(r"con|prn|aux|nul|(?:com|lpt)[1-9]")


def restore(fixture: Fixture, base: Path, roots: int) -> None:
    """Write the fixture's files, folders and repositories below `base`/0, `base`/1 ...

    Raises:
        RecordingError: a name leads elsewhere, a repository's pack cannot be read, or the disk
            takes no such file.
    """
    try:
        _restore(fixture, base, roots)
    except (OSError, ValueError) as error:  # a folder where a file is to be, a NUL in a name ...
        problem = getattr(error, "strerror", None) or error
        raise RecordingError(
            f"its fixture cannot be written: {problem}", hint="record the session again"
        ) from error


def _restore(fixture: Fixture, base: Path, roots: int) -> None:
    for name in (*fixture.files, *fixture.folders, *fixture.repositories):
        _check_name(name, roots)
    for number in range(roots):
        (base / str(number)).mkdir()
    for name, data in fixture.files.items():
        path = base / name
        if path.parent.is_relative_to(base):  # a root may be a single file
            with suppress(OSError):
                path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name, listing in fixture.folders.items():
        _list(base / name, listing)
    for name, repository in fixture.repositories.items():
        gitpack.restore(repository, base / name)


def _check_name(name: str, roots: int) -> None:
    """Refuse a name that leads out of the fixture, or that could switch something on in git.

    A recording may come from somebody else.
    """
    number, *parts = name.split("/")
    known = number.isascii() and number.isdecimal() and int(number) < roots
    if not known or any(unsafe(part) for part in parts):
        raise RecordingError(f"its fixture names {name!r}", hint="record the session again")


def unsafe(part: str) -> bool:
    """Whether a part of a name leads elsewhere, or may be `.git` on some file system.

    As git itself refuses them (`is_hfs_dotgit`, `is_ntfs_dotgit`): any case, ignorable characters
    on HFS+, short names, streams, trailing dots and spaces on NTFS; also names of devices.
    """
    plain = unicodedata.normalize("NFC", part.translate(IGNORED)).casefold().replace("\\", "/")
    stem = plain.partition(":")[0].rstrip(". ")
    return (
        stem in ("", ".git")
        or "/" in plain
        or "\0" in part
        or SHORT_NAME.fullmatch(stem) is not None
        or DEVICE.fullmatch(stem.partition(".")[0].rstrip()) is not None
    )


def _list(folder: Path, listing: Listing) -> None:
    """Give a folder the recorded entries; those without contents are of the recorded size."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in listing.entries.items():
        path = folder / name
        # A repository's folder is listed as one, and comes with the repository.
        if unsafe(name) and not (name == ".git" and size is None):
            raise RecordingError(f"its fixture lists {name!r}", hint="record the session again")
        if os.path.lexists(path):
            continue
        if size is None:
            path.mkdir()
        elif size == "link":
            path.symlink_to("nowhere")
        elif isinstance(size, int):
            with path.open("wb") as file:
                file.truncate(size)
        else:
            os.mkfifo(path)


class Pages:
    """Connections to the recorded pages."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    @contextmanager
    def connect(self, url: str) -> Iterator[socket.socket]:
        """Yield what answers for `url`.

        Raises:
            ToolError: it was not recorded.
        """
        page = self._pages.get(url)
        if page is not None and page.url != url:
            yield cast(
                socket.socket, _Answer(f"302 Found\r\nLocation: {page.url}\r\n\r\n".encode())
            )
            return
        if page is None:
            page = next((page for page in self._pages.values() if page.url == url), None)
        if page is None:
            raise ToolError(f"{url} is not among the recorded pages; a replay has no network")
        head = "200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        yield cast(socket.socket, _Answer(head.encode() + page.text.encode("utf-8", "replace")))


class _Answer:
    """What http.client needs of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = b"HTTP/1.1 " + data

    def makefile(self, *_mode: object) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, _data: bytes) -> None:
        """The request is not looked at."""

    def close(self) -> None:
        """There is nothing to close."""
