"""Programs: one at a time, by argument list and never by a shell, from the agent's list.

A program stays in the group of the process that runs it, an agent's hands or a worker: when that is
killed, it and all its children go with it. So a single call cannot kill a group. At its deadline
the program itself is killed; what it left running ends with the hands, which then end at once.
"""

import os
import select
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from agentd.errors import ConfigError, PermissionRefused, ToolError
from agentd.events import Result
from agentd.macos import developer_tools
from agentd.paths import expanded
from agentd.process.environment import PROGRAM_PATH, for_program
from agentd.tools.base import Output, ToolCall, cut_text

NOT_INSTALLED = (
    f"; a person may have to run {developer_tools.HINT}" if sys.platform == "darwin" else ""
)
OUTPUT_BYTES = 200_000  # kept of a program's output; it may write more, and that is dropped
CHUNK_BYTES = 65_536
LAST_READS = 16  # more than a pipe holds; without a bound, a child left behind could write for ever


def execute(
    argv: Sequence[str],
    call: ToolCall,
    *,
    env: Mapping[str, str],
    cwd: str | Path,
    limit: int = OUTPUT_BYTES,
    errors: bool = True,
    given: bytes = b"",
    program: str | None = None,
) -> Output:
    """Run a program to its end, a stop or the deadline, and return its output.

    With `errors` what it writes to stderr comes too, in between. `given` is what it may read.
    `program`: its path, if that is not the first word.

    Raises:
        ToolError: it cannot be started, or ran past the deadline.
        Stopped: an orderly stop came.
    """
    call.check()
    with ExitStack() as stack:
        # Whatever it starts inherits one end: the other one tells when all of it is gone.
        leash, held = os.pipe()
        stack.callback(os.close, leash)
        try:
            with os.fdopen(held, "wb"), _input(given) as stdin:
                process = subprocess.Popen(
                    argv,
                    executable=program,
                    env=dict(env),
                    cwd=cwd,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
                    pass_fds=(held,),
                    preexec_fn=call.before,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ToolError(f"{argv[0]} cannot be started: {error}") from error
        try:
            kept, dropped = _collect(process, call, limit)
        finally:
            call.left_running |= not select.select([leash], [], [], 0)[0]
    return Output(process.wait(), kept, dropped)


def _input(given: bytes) -> IO[bytes]:
    """Return an open file that holds what a program may read."""
    if not given:
        return Path(os.devnull).open("rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's to close
    file.write(given)
    file.seek(0)
    return file


def _collect(process: subprocess.Popen[bytes], call: ToolCall, limit: int) -> tuple[bytes, int]:
    """Read until the program itself ends; a child of it may hold the pipe open for longer."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    kept, dropped = bytearray(), 0
    ended, end = os.pipe()

    def reap() -> None:
        try:
            process.wait()
        finally:
            os.close(end)  # wakes the selector

    def read() -> int:
        nonlocal dropped
        try:
            chunk = os.read(pipe, CHUNK_BYTES)
        except BlockingIOError:
            return 0
        room = limit - len(kept)
        kept.extend(chunk[:room])
        dropped += len(chunk) - len(chunk[:room])
        return len(chunk)

    with ExitStack() as stack:
        stack.callback(os.close, ended)
        stack.enter_context(process.stdout)
        waiter = threading.Thread(target=reap, name="reap", daemon=True)
        waiter.start()
        stack.callback(waiter.join)
        stack.callback(process.kill)  # does nothing to one that has ended
        bell = stack.enter_context(call.cancel.bell())
        selector = stack.enter_context(selectors.DefaultSelector())
        for source in (pipe, ended, bell):
            selector.register(source, selectors.EVENT_READ)
        while ended not in (ready := {key.fd for key, _ in selector.select(call.left_s)}):
            call.check()
            if pipe in ready and read() == 0:  # it closed its output and goes on
                selector.unregister(pipe)
        for _ in range(LAST_READS):
            if read() == 0:
                break
    return bytes(kept), dropped


def find_program(program: str, listed: Sequence[str]) -> str:
    """Return the absolute path of a listed program; the model may name it as listed, or by name.

    Raises:
        PermissionRefused: the list does not have it.
        ToolError: it is listed and not installed.
    """
    entry = _listed(program, listed)
    found = developer_tools.which(str(expanded(entry)), PROGRAM_PATH)
    if found is None:
        raise ToolError(f"{entry} is not installed{NOT_INSTALLED}")
    return found


def _listed(program: str, listed: Sequence[str]) -> str:
    for entry in listed:
        try:
            path = expanded(entry)
        except ConfigError:
            continue  # nobody's home: it allows nothing, as the agent's check says
        if program not in (entry, str(path), path.name):
            continue
        if "/" not in entry or path.is_absolute():
            return entry
    raise PermissionRefused(f"{program!r} may not be run; only {', '.join(listed) or 'nothing'}")


def run_command(call: ToolCall, program: str, args: Sequence[str]) -> Result:
    """Run the program in an empty folder of its own; give its exit code and output."""
    if any("\0" in arg for arg in args):
        raise ToolError("an argument holds no NUL")
    if call.programs is None:
        output = _run(call, program, args)
    else:
        _listed(program, call.permissions.run)
        output = call.programs([program, *args])
    text = cut_text(output.data.decode("utf-8", "replace").replace("\0", "\ufffd"))
    if output.dropped:
        text += f"\n...[cut {output.dropped} bytes]"
    return Result({"exit": output.code, "output": text}, trusted=False)


def _run(call: ToolCall, program: str, args: Sequence[str]) -> Output:
    found = find_program(program, call.permissions.run)
    try:
        scratch = tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True)
    except OSError as error:  # a full disk
        raise ToolError(f"no folder to run it in: {error}") from error
    with scratch as folder:
        env = {**for_program(folder), **call.environ}
        return execute([found, *args], call, env=env, cwd=folder)
