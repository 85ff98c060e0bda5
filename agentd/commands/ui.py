"""`agentd ui`: a page in the browser, opened by a link that is used once."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentd.clock import SystemClock
from agentd.commands.daemon_commands import Document, obeyed, too_late
from agentd.commands.output import note, print_json, say
from agentd.errors import AgentdError
from agentd.paths import Paths, discover
from agentd.states import Exit, WorkerState
from agentd.supervisor.client import query
from agentd.supervisor.one_time_link import ENTER, once, page_key
from agentd.whole import write_whole

FILE = "enter.html"  # in `run`, which is private
WAY = '<!doctype html><meta http-equiv="refresh" content="0;url={}"><title>agentd</title>\n'
OPEN_S = 10.0  # for what opens a browser to return

EXAMPLES = """example:
  agentd ui            # opens the page in your browser
  agentd ui --print    # only prints the link, to be opened by hand

Prints a link and opens it: results, questions to answer, agents, sessions, the model and the log.
The link is used once and holds for two minutes; the browser that opened it keeps a cookie. The page
is for this machine alone. `port` under [ui] in agentd.toml keeps it with the daemon, always at the
same place; without it the page's process ends when nobody has looked for ten minutes.
Exits 3 without a daemon, 1 where the page cannot be had.

--json prints {url}, and opens nothing."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("--print", action="store_true", help="open nothing")
    parser.add_argument("--json", action="store_true", help="print JSON, and open nothing")


def run(args: argparse.Namespace) -> int:
    """Print the link and open it."""
    paths = discover()
    page = _running(paths)
    url = f"{page['url']}/{ENTER}/{once(page_key(paths), SystemClock().now())}"
    if args.json:
        print_json({"url": url})
        return Exit.OK
    say(url, flush=True)
    if not args.print and (opener := _opener()) is not None:
        _open(opener, url if sys.platform != "darwin" else _way(paths.run / FILE, url))
    return Exit.OK


def _running(paths: Paths) -> dict[str, Any]:
    """Return what the supervisor says of the page's process, once it runs.

    Raises:
        NotRunning: there is no daemon.
        AgentdError: the process does not start.
    """
    if (page := _page(query(paths))) is not None and page["kept"]:
        return page
    # Also where it runs: it might end this moment.
    late = too_late("the page has not started", "`agentd status` and `agentd logs agentd.ui`")
    state = obeyed(paths, "ui", {}, done=lambda state: _page(state) is not None, late=late)
    page = _page(state)
    assert page is not None
    return page


def _page(state: Document) -> dict[str, Any] | None:
    """Return what is said of the page's process where it runs, None where it does not yet.

    Raises:
        AgentdError: it cannot run, and says why.
    """
    page: dict[str, Any] | None = state.get("ui")
    if page is None or page["state"] != WorkerState.PARKED:
        running = page is not None and page["state"] == WorkerState.RUNNING
        return page if running and page is not None and not page["stopping"] else None
    problem = page["problem"] or {"what": page["reason"], "where": "", "hint": ""}
    raise AgentdError(
        f"there is no page: {problem['what']}", where=problem["where"], hint=problem["hint"]
    )


def _opener() -> str | None:
    """Return the program that opens a browser, None where there is no screen."""
    if sys.platform == "darwin":
        return "/usr/bin/open"
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return shutil.which("xdg-open")
    return None


def _way(file: Path, url: str) -> str:
    """Return a file that leads to the link: a command line is read by every user of a Mac.

    On Linux the page answers no other user, and some browsers there read no such file.
    """
    write_whole(file, WAY.format(url))
    return str(file)


def _open(opener: str, url: str) -> None:
    try:
        done = subprocess.run(
            [opener, url], stdin=subprocess.DEVNULL, capture_output=True, timeout=OPEN_S
        )
    except subprocess.TimeoutExpired:  # some browsers stay in the foreground
        return
    except OSError as error:
        note(f"{opener} does not run: {error.strerror}; open the link by hand")
        return
    if done.returncode:
        note(f"{opener} opened nothing: open the link by hand")
