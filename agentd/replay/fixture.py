"""A fixture as folders and pages: what a replay's tools see in the place of the recorded world."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from agentd.errors import RecordingError, ToolError
from agentd.net.exchange import Stream
from agentd.recordings import git_pack
from agentd.recordings.recording import Fixture, Listing, Page
from agentd.replay.folder_map import FolderMap, unsafe


def restore(fixture: Fixture, folders: FolderMap) -> None:
    """Write the fixture's files, folders and repositories where `folders` has them.

    Raises:
        RecordingError: a name leads elsewhere, a repository's pack cannot be read, or the disk
            takes no such file.
    """
    try:
        _restore(fixture, folders)
    except (OSError, ValueError) as error:  # a folder where a file is to be, a NUL in a name ...
        problem = getattr(error, "strerror", None) or error
        raise RecordingError(
            f"its fixture cannot be written: {problem}", hint="record the session again"
        ) from error


def _restore(fixture: Fixture, folders: FolderMap) -> None:
    for name in (*fixture.files, *fixture.folders, *fixture.repositories):
        _check_name(name, len(folders.folders))

    def place(name: str) -> Path:
        number, _, inner = name.partition("/")
        return folders.folders[int(number)] / inner

    for folder in folders.folders:
        if folder.parent == folders.base:  # else it lies in another one
            folder.mkdir()
    for name, data in fixture.files.items():
        path = place(name)
        with suppress(OSError):  # a root may be a single file
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name, listing in fixture.folders.items():
        _list(place(name), listing)
    for name, repository in fixture.repositories.items():
        git_pack.restore(repository, place(name))
    for link, folder in folders.links.items():
        link.symlink_to(folder)


def _check_name(name: str, roots: int) -> None:
    """Refuse a name that leads out of the fixture, or that could switch something on in git.

    A recording may come from somebody else.
    """
    number, *parts = name.split("/")
    known = number.isascii() and number.isdecimal() and int(number) < roots
    if not known or any(unsafe(part) for part in parts):
        raise RecordingError(f"its fixture names {name!r}", hint="record the session again")


def _list(folder: Path, listing: Listing) -> None:
    """Give a folder the recorded entries; those without contents are of the recorded size."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in listing.items():
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
    def connect(self, url: str) -> Iterator[Stream]:
        """Yield what answers for `url`.

        Raises:
            ToolError: it was not recorded.
        """
        page = self._pages.get(url)
        if page is not None and page.url != url:
            yield _Answer(f"302 Found\r\nLocation: {page.url}\r\n\r\n".encode())
            return
        if page is None:
            page = next((page for page in self._pages.values() if page.url == url), None)
        if page is None:
            raise ToolError(f"{url} is not among the recorded pages; a replay has no network")
        kind = "html" if page.text.lstrip().startswith("<") else "plain"
        head = f"200 OK\r\nContent-Type: text/{kind}; charset=utf-8\r\n\r\n"
        yield _Answer(head.encode() + page.text.encode("utf-8", "replace"))


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
