"""What carries a call out, by its place and name: what hands and the fetcher know.

Besides the tools of these places there are inner calls: parts of a tool that the worker composes
(`ToolCall.inner`), which no model sees. A module is imported at the first call of one of its
handlers, so that hands and fetcher start as light as before.
"""

import importlib
from collections.abc import Callable, Mapping

from agentd.errors import ToolError
from agentd.events import Result

Handler = Callable[..., Result]

HANDLERS: Mapping[str, Mapping[str, str]] = {
    "hands": {
        "ListFiles": "files.list_files",
        "ReadFile": "files.read_file",
        "SearchText": "files.search_text",
        "FindNotes": "find_notes.find_notes",
        "WriteFile": "files.write_file",
        "AppendNote": "files.append_note",
        "MoveFile": "move.move_file",
        "ReadLogLines": "log_file.read_log_lines",
        "ReadTasks": "open_tasks.read_tasks",
        "Query": "query.query",
        "ReadPdf": "pdf.read_pdf",
        "RunCommand": "shell.run_command",
        "ParsePage": "page.parse_page",
        "ParseFeed": "feed.parse_feed",
        "ParseCalendar": "calendar.parse_calendar",
        "RunShortcut": "macos_apps.run_shortcut",
        "AddReminder": "macos_apps.add_reminder",
        "AddNote": "macos_apps.add_note",
        "ReadMailbox": "mailboxes.read_mailbox",
        "ParseMail": "mailboxes.parse_mail",
        "AskCalendar": "calendar_app.ask_calendar",
    },
    "fetcher": {
        "HttpGet": "http.http_get",
        "Fetch": "http.fetch",
        "FetchMail": "imap.fetch_mail",
    },
    "deliver": {"Post": "post.post"},  # of what sends results, in the fetcher; no agent has it
}
# They start programs, in a sandbox within that of hands.
PROGRAMS = frozenset({"RunCommand", "RunShortcut", "AddReminder", "AddNote", "AskCalendar"})


def handler(place: str, name: str) -> Handler:
    """Return what carries the call `name` out in this place.

    Raises:
        ToolError: nothing does.
    """
    where = HANDLERS.get(place, {}).get(name)
    if where is None:
        raise ToolError(f"there is no tool {name[:80]!r} in {place}")
    module, _, function = where.partition(".")
    found: Handler = getattr(importlib.import_module(f"agentd.tools.{module}"), function)
    return found
