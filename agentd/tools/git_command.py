"""The `git` command, with all that a repository could make it run switched off.

A repository's own configuration can name programs to run (hooks, pagers, diff drivers, monitors,
signature checkers, transports). None of them is run: they are switched off one by one, no file of
the working tree is touched, and nothing is fetched.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from agentd.errors import ToolError
from agentd.macos import developer_tools, privacy
from agentd.process.environment import PROGRAM_PATH
from agentd.process.stop import Cancel
from agentd.tools import repository
from agentd.tools.base import Output, ToolCall
from agentd.tools.shell import NOT_INSTALLED, execute

DEADLINE_S = 20.0  # of one git command
OUTPUT_BYTES = 16_000_000
ERROR_CHARACTERS = 400

SWITCHED_OFF = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.quotePath=false",
    "log.showSignature=false",
    "log.mailmap=false",
    "core.attributesFile=/dev/null",
    "mailmap.file=",
    "diff.external=",
    "diff.orderFile=",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.allow=never",
    "submodule.recurse=false",
    # The person named this repository; an owner other than the daemon's user is then no surprise.
    "safe.directory=*",
)
_call: ContextVar[ToolCall | None] = ContextVar("call", default=None)  # see `part_of`
# See `held_to`: what says so, and the repositories that passed, with the folder of their files.
_held: ContextVar[tuple[Callable[[Path], None], dict[Path, Path]] | None] = ContextVar(
    "held", default=None
)


def folders(repo: Path) -> list[Path]:
    """See `git.folders`."""
    try:
        return repository.reached(repo, _settings)
    except (OSError, ValueError) as error:  # names that cannot be, folders that may not be entered
        raise ToolError(f"{repo} cannot be looked into: {error}"[:ERROR_CHARACTERS]) from error


def environment(repo: Path) -> dict[str, str]:
    """Return git's whole environment: nothing of the daemon's, nothing of the user's git."""
    return {
        "PATH": PROGRAM_PATH,
        "HOME": "/dev/null",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(repo.parent),  # never a repository further up
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # the same for a git older than 2.44: no transport at all
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_PAGER": "cat",
    }


@contextmanager
def held_to(readable: Callable[[Path], None]) -> Iterator[None]:
    """Let git look, inside the block, only at repositories of which all is readable.

    `readable` raises PermissionRefused for a folder or file that is not.
    """
    token = _held.set((readable, {}))
    try:
        yield
    finally:
        _held.reset(token)


def _git_folder(repo: Path) -> Path | None:
    """Return where a repository's own files are, checked; None where nobody asked for a check."""
    held = _held.get()
    if held is None:
        return None
    readable, known = held
    if repo not in known:
        readable(repo)  # before anything of it is looked at
        for path in folders(repo):
            readable(path)
        known[repo] = repository.git_folder(repo)
    return known[repo]


def _settings(file: Path) -> list[tuple[str, str]]:
    """Return the settings of one file; see `repository.Settings`."""
    args = ("config", "--file", str(file), "--no-includes", "--null", "--list")
    output = _run(args, Path("/"), {"GIT_DIR": "/dev/null"})
    if output.code != 0:
        raise ToolError(f"git cannot read {file}")
    items = output.data.decode("utf-8", "surrogateescape").split("\0")
    pairs = (item.partition("\n") for item in items if item)
    return [(key, value) for key, _, value in pairs]


@contextmanager
def stopped_by(cancel: Cancel) -> Iterator[None]:
    """Let a stop end the git commands that run inside the block: they raise Stopped."""
    with part_of(ToolCall(cancel=cancel, deadline_s=math.inf)):
        yield


@contextmanager
def part_of(call: ToolCall) -> Iterator[None]:
    """Let the git commands inside the block be part of a call: its stop, its deadline, its way."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def cancel_of_block() -> Cancel:
    """Return what stops git in this block; see `stopped_by`."""
    call = _call.get()
    return Cancel() if call is None else call.cancel


def git(repo: Path, *args: str, given: bytes = b"", limit: int = OUTPUT_BYTES) -> Output:
    """See `git.git`."""
    if not privacy.is_folder(repo):
        raise ToolError(f"{repo} is not there")
    own = _git_folder(repo)
    # What was checked is what is read: git looks for no repository by itself.
    return _run(args, repo, {"GIT_DIR": str(own)} if own else {}, given=given, limit=limit)


def answer(repo: Path, *args: str, given: bytes = b"") -> bytes:
    """Return what a git command says.

    Raises:
        ToolError: it failed, or said too much.
    """
    output = git(repo, *args, given=given)
    if output.code != 0:
        if (found := privacy.kept_out([repo])) is not None:
            raise ToolError(f"macOS keeps agentd out of {repo}; a person must allow it: {found[1]}")
        raise ToolError(f"git {args[0]} failed in {repo} (exit {output.code})")
    if output.dropped:
        raise ToolError(f"git {args[0]} wrote more than {OUTPUT_BYTES} bytes in {repo}")
    return output.data


def _run(
    args: Sequence[str],
    folder: Path,
    more: Mapping[str, str],
    *,
    given: bytes = b"",
    limit: int = OUTPUT_BYTES,
) -> Output:
    program = developer_tools.which("git", PROGRAM_PATH)
    if program is None:
        raise ToolError(f"git is not installed{NOT_INSTALLED}")
    switches = [word for setting in SWITCHED_OFF for word in ("-c", setting)]
    call = _call.get() or ToolCall()
    return execute(
        ["git", "--no-pager", *switches, *args],
        replace(call, deadline_s=min(DEADLINE_S, call.left_s)),
        program=program,
        env={**environment(folder), **more},
        cwd=folder,
        errors=False,
        given=given,
        limit=limit,
    )
