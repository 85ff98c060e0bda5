"""Shortcuts, Reminders and Notes of a Mac, as far as the agent's permissions list them."""

import html
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from agentd.errors import PermissionRefused, ToolError
from agentd.events import Result
from agentd.macos.scripts import (
    ADD_NOTE,
    ADD_REMINDER,
    CONSENT,
    NO_CONSENT,
    script_argv,
    shortcut_argv,
)
from agentd.process.environment import for_program
from agentd.tools.base import Output, ToolCall, clean_line, cut_text
from agentd.tools.shell import execute
from agentd.whole import read_start

RESULT_BYTES = 200_000  # read of what a shortcut gives
TOLD_CHARACTERS = 300  # of what a program said, in an error


def run_shortcut(call: ToolCall, name: str, input: str | None) -> Result:
    """Run a shortcut, on a text if one is given; give the text that it comes to."""
    check_app(call, f"shortcut:{name}")
    with own_folder() as folder:
        given, result = Path(folder, "input.txt"), Path(folder, "output.txt")
        if input is not None:
            given.write_text(input, "utf-8")
        argv = shortcut_argv(name, None if input is None else str(given), str(result))
        _told(call, f"the shortcut {name!r}", argv, folder)
        data = read_start(result, RESULT_BYTES) if result.is_file() else b""
    text = data.decode("utf-8", "replace").replace("\0", "\ufffd")
    return Result({"output": cut_text(text)}, trusted=False)


def add_reminder(call: ToolCall, title: str, list: str | None, due: str | None) -> Result:
    """Add a reminder, to the default list if none is named; `due` as 2026-12-24T09:00."""
    check_app(call, "reminders")
    when = _moment(due) if due else ""
    with own_folder() as folder:
        argv = script_argv(ADD_REMINDER, title, list or "", when)
        return Result({"title": title, "list": _told(call, "Reminders", argv, folder)})


def add_note(call: ToolCall, title: str, text: str) -> Result:
    """Add a note to the default folder. Its text is HTML there, whose first line is the title."""
    check_app(call, "notes")
    lines = "".join(f"<div>{html.escape(line) or '<br>'}</div>" for line in text.split("\n"))
    with own_folder() as folder:
        argv = script_argv(ADD_NOTE, f"<h1>{html.escape(title)}</h1>{lines}")
        return Result({"title": title, "folder": _told(call, "Notes", argv, folder)})


def check_app(call: ToolCall, wanted: str) -> None:
    """Raise PermissionRefused unless the app is listed."""
    listed = call.permissions.apps
    if wanted not in listed:
        names = ", ".join(listed) or "nothing"
        raise PermissionRefused(f"[permissions] apps does not list {wanted!r}; only {names}")


def own_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return an empty folder for one call of a program."""
    return tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True)


def _moment(text: str) -> str:
    """Return a time as JavaScript reads it; without a zone it is this machine's.

    Raises:
        ToolError: it is none.
    """
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError) as error:
        raise ToolError(f"due: {text!r} is no time; write it as 2026-12-24T09:00") from error


def _told(call: ToolCall, app: str, argv: Sequence[str], folder: str) -> str:
    """Run a program of macOS, and return the line that it says."""
    return _line(ran(call, app, argv, folder).data)


def _line(data: bytes) -> str:
    return clean_line(data.decode("utf-8", "replace").strip(), TOLD_CHARACTERS)


def ran(call: ToolCall, app: str, argv: Sequence[str], folder: str, **options: Any) -> Output:
    """Run a program of macOS to its end; `options` are those of `execute`.

    Raises:
        ToolError: this is no Mac, or the app refuses; with what a person can do.
    """
    if any("\0" in word for word in argv):
        raise ToolError("a text holds no NUL")
    if call.programs is not None:
        output = call.programs(argv)
    elif not os.access(argv[0], os.X_OK):
        raise ToolError(f"needs a Mac: there is no {argv[0]} here")
    else:
        output = execute(argv, call, env=for_program(folder), cwd=folder, **options)
    if output.code:
        said = _line(output.data)
        consent = f"; allow it in {CONSENT}" if NO_CONSENT in said else ""
        raise ToolError(f"{app} failed ({output.code}): {said}{consent}")
    return output
