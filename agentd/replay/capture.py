"""Captures what a session's read-only tools saw: files, listings, repositories, pages.

The session runs once more, with its recorded decisions and results, while its reading tools are
watched on the real folders. So the fixture holds just what they open, capped; nothing is changed.
"""

import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agentd.agent import Result
from agentd.config.agent import AgentConfig
from agentd.errors import AgentdError, ConfigError, ToolError
from agentd.paths import expanded
from agentd.recordings import git_pack
from agentd.recordings.recording import Fixture, Listing, Page, Recording, Repository, Root
from agentd.replay.agent_proxy import Handling
from agentd.replay.code import Code, Workshop
from agentd.replay.difference import Diverged
from agentd.replay.fixture_toolbox import only_reads
from agentd.replay.folder_map import FolderMap, unsafe
from agentd.replay.offline import add_hook
from agentd.replay.replay import Replay
from agentd.replay.results import recorded_result
from agentd.sessions.steps import StepKind
from agentd.tools.closed import Closed
from agentd.tools.files import SEARCH_BYTES, SKIPPED_FOLDERS
from agentd.tools.git import OBJECT_ID, is_repository
from agentd.tools.place import locate
from agentd.tools.toolbox import Toolbox

FILE_BYTES_MAX = 256_000  # of one file or page
FILES_BYTES_MAX = 2_000_000  # of all together
FILES_MAX = 500
ENTRIES_MAX = 2_000  # of one folder
FILE_READS = frozenset({"ReadFile", "ListFiles", "SearchText"})
PATH_MAX = 1_024  # characters; a longer text is no path


def find_roots(recording: Recording) -> list[Root]:
    """Return what the session knew by its absolute path: folders, or files, permitted or named."""
    config = recording.config
    named = [*config.permissions.read, *config.permissions.write]
    known = [config.params, recording.head.event.payload, recording.facts(1)]
    named += [text for text in _texts(known) if (real := _real(text)) and Path(real).exists()]
    named.append(recording.head.own)
    # A decision names no new folder, but may name one in a way of its own.
    decided = [dict(step.payload) for step in recording.steps if step.kind is StepKind.DECISION]
    roots: dict[str, list[str]] = {}
    for name in dict.fromkeys(named):
        if (path := _real(name)) and path != "/":
            roots.setdefault(path, [])
            if name.rstrip("/") != path:
                roots[path].append(name.rstrip("/"))
    outer = [path for path in roots if not any(path.startswith(f"{up}/") for up in roots)]
    for name in dict.fromkeys(_texts(decided)):
        path = _real(name)
        if path and any(path == up or path.startswith(f"{up}/") for up in outer):
            roots.setdefault(path, []).append(name.rstrip("/"))
    kept: dict[str, list[str]] = {path: [] for path in outer}
    # The shorter ones first: of a longer one they are often the beginning, which says it all.
    for path, name in sorted(((p, n) for p in roots for n in roots[p]), key=lambda at: len(at[1])):
        if not _begins(name, path, kept):
            kept.setdefault(path, []).append(name)
    return [Root(path=path, spellings=names) for path, names in kept.items()]


def _begins(name: str, path: str, roots: Mapping[str, Sequence[str]]) -> bool:
    """Whether a spelling begins with one of a root's, and goes on as the path does from there."""
    for root, names in roots.items():
        for spelling in (root, *names):
            if name == spelling or name.startswith(f"{spelling}/"):
                inner = os.path.normpath(name[len(spelling) :].lstrip("/") or ".")
                if not inner.startswith("..") and path == os.path.normpath(f"{root}/{inner}"):
                    return True
    return False


def _real(text: str) -> str | None:
    """Return the path that a text spells, absolute or with `~`, free of links; None of others."""
    if not text.startswith(("/", "~")) or len(text) >= PATH_MAX or "\0" in text:
        return None
    try:
        path = expanded(text)
    except ConfigError:  # there is no such user
        return None
    return os.path.realpath(path) if path.is_absolute() else None


def _absolute(text: str) -> bool:
    return text.startswith("/") and len(text) < PATH_MAX and "\0" not in text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


class Capture(Replay):
    """Runs a session's reading tools on the real folders, and keeps what they read.

    Nothing of what is `closed` gets into the fixture, whoever opens it.
    """

    def __init__(
        self, recording: Recording, code: Code, workshop: Workshop, where: str, closed: Closed
    ) -> None:
        super().__init__(recording, code, workshop, where=where)
        self._seen: list[tuple[str, dict[str, Any]]] = []
        self._closed = closed
        self._collector = _Collector(recording.head.volatile.paths, closed)

    def fixture(self) -> Fixture:
        """Run, and return what was read.

        Raises:
            ConfigError: the code does not take the recorded configuration.
        """
        with self._prepared():
            # What was read before it went wrong is worth having.
            with suppress(Diverged, AgentdError), _opened(self._collector):
                self._play()
            for name, args in self._seen:
                with suppress(ToolError, OSError):
                    self._collect(name, args)
        pages = dict(filter(None, map(self._page, self.recording.steps)))
        collector = self._collector
        return Fixture(collector.files, collector.folders, self._repositories(), pages)

    def _map_folders(self) -> FolderMap:
        return FolderMap([], self._folder)  # the real folders

    def _confined(self, config: AgentConfig) -> AgentConfig:
        return config

    def _readable(self, path: Path) -> None:
        self._toolbox.check_readable(path)

    def _check_messages(self) -> None:
        """There is nothing to compare yet."""

    def _make_toolbox(self, config: AgentConfig) -> Toolbox:
        return _ReadingToolbox(config, self.recording.head.own, self._seen, self._closed)

    def _handle(self, name: str) -> Handling:
        self.playback.check_cut()
        step = self.playback.next_step
        if step is None or step.kind is not StepKind.RESULT:
            return Handling(run=False)
        self.llm.count_given()
        run = only_reads(name, self.loaded.version.agent)
        return Handling(run, recorded_result(self.recording, step))

    def _adjust(self, name: str, result: Result) -> Result:
        return result

    def _collect(self, name: str, args: Mapping[str, Any]) -> None:
        if name not in FILE_READS:
            return
        marks = self._closed.marks(writing=False)
        path = Path(locate(str(args.get("path", "")), self._toolbox.grants.readable, marks).path)
        if not path.is_dir():
            self._collector.file(path)
        elif name == "SearchText":
            self._collector.tree(path)
        else:
            self._collector.folder(path)

    def _page(self, step: Any) -> tuple[str, Page] | None:
        """Return the page that a result of HttpGet shows, by the URL that was asked for."""
        value = step.payload
        if step.kind is not StepKind.RESULT or step.type != "http_get" or "text" not in value:
            return None
        asked = self.recording.decision_before(step.seq).payload.get("url")
        return str(asked), Page(str(value.get("url")), str(value["text"]))

    def _repositories(self) -> dict[str, Repository]:
        recording = self.recording
        everything = [
            recording.head.model_dump(mode="json"),
            *(step.payload for step in recording.steps),
            *(event.payload for step in recording.steps for event in step.publish),
            *(step.remember for step in recording.steps),
        ]
        texts = list(_texts(everything))
        ids = [text for text in texts if OBJECT_ID.fullmatch(text)]
        branches = list(_texts(recording.head.config.get("params", {})))
        found: dict[str, Repository] = {}
        for text in dict.fromkeys([*(root.path for root in self._collector.roots), *texts]):
            if not _absolute(text) or not is_repository(Path(text)):
                continue
            name = self._collector.name(Path(os.path.realpath(text)))
            if name is None or name in found:
                continue
            found[name] = git_pack.capture(Path(text), ids, branches)
        return found


class _ReadingToolbox(Toolbox):
    """Notes each call of a reading tool; nothing is changed and nothing fetched."""

    def __init__(
        self,
        config: AgentConfig,
        own: str,
        seen: list[tuple[str, dict[str, Any]]],
        closed: Closed,
    ) -> None:
        super().__init__(config.permissions, own=own, closed=closed)
        self._seen = seen

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run a reading tool; refuse all others."""
        if name not in FILE_READS:
            raise ToolError(f"{name} is not run while a session is recorded")
        self._seen.append((name, dict(args)))
        return super().call(name, args)


class _Collector:
    """Files and listings below the roots, within the caps."""

    def __init__(self, roots: list[Root], closed: Closed) -> None:
        self.roots = roots
        self._marks = closed.marks(writing=False)
        self.files: dict[str, bytes] = {}
        self.folders: dict[str, Listing] = {}
        self._bytes = 0

    def name(self, path: Path) -> str | None:
        """Return a resolved path as the fixture names it, None outside of every root."""
        for number, root in enumerate(self.roots):
            if path.is_relative_to(root.path) and not any(
                map(unsafe, path.relative_to(root.path).parts)
            ):
                inner = path.relative_to(root.path).as_posix()
                return str(number) if inner == "." else f"{number}/{inner}"
        return None

    def file(self, path: Path) -> None:
        """Keep a file's content, unless it is too large."""
        name = self.name(path)
        if name is None or name in self.files or len(self.files) >= FILES_MAX:
            return
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES_MAX:
            return
        if self._marks.hides(status) or self._marks.reason(str(path), 0):
            return
        if self._bytes + status.st_size > FILES_BYTES_MAX:
            return
        data = path.read_bytes()
        self._bytes += len(data)
        self.files[name] = data

    def folder(self, path: Path) -> None:
        """Keep a folder's listing."""
        name = self.name(path)
        if name is None or name in self.folders or self._marks.reason(str(path), 0):
            return
        entries: dict[str, int | str | None] = {}
        for entry in sorted(os.scandir(path), key=lambda e: e.name)[:ENTRIES_MAX]:
            mode = entry.stat(follow_symlinks=False).st_mode
            if unsafe(entry.name) and not (entry.name == ".git" and stat.S_ISDIR(mode)):
                continue  # such as the `.git` of a worktree: it points elsewhere
            if stat.S_ISREG(mode):
                entries[entry.name] = entry.stat(follow_symlinks=False).st_size
            elif stat.S_ISDIR(mode):
                entries[entry.name] = None
            else:
                entries[entry.name] = "link" if stat.S_ISLNK(mode) else "special"
        self.folders[name] = entries

    def tree(self, path: Path) -> None:
        """Keep what a search looks at."""
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
            for name in sorted(names):
                if len(self.files) >= FILES_MAX:
                    return
                with suppress(OSError):
                    if (Path(folder) / name).lstat().st_size <= SEARCH_BYTES:
                        self.file(Path(folder) / name)


class _Watch(threading.local):
    collector: "_Collector | None" = None


_watch = _Watch()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Keep what an agent's own code opens or lists by itself."""
    collector = _watch.collector
    if collector is None or event not in ("open", "os.listdir", "os.scandir"):
        return
    if not isinstance(args[0], str) or not _absolute(args[0]):
        return
    writing = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    _watch.collector = None  # what is opened here is no news
    try:
        path = Path(os.path.realpath(args[0]))
        if not writing and path.exists():
            with suppress(OSError):
                collector.file(path) if event == "open" else collector.folder(path)
    finally:
        _watch.collector = collector


@contextmanager
def _opened(collector: _Collector) -> Iterator[None]:
    add_hook(_hook)
    _watch.collector = collector
    try:
        yield
    finally:
        _watch.collector = None
