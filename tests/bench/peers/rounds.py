"""What every side runs in: a session for each line that comes in, a time for each that goes out.

Runs in other environments as well: the standard library alone.
"""

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

URL = sys.argv[1]  # of the server, ending in /v1
TURNS = 8
TASK = "Read the files of src, one after the other, and say when all are read."
TEXT = "def main() -> None:\n    print('hello')\n" * 12  # about 500 characters
READ_FILE = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "start": {"type": "integer"}},
            "required": ["path", "start"],
        },
    },
}


def take_turns(session: Callable[[], object]) -> None:
    """Run a first session, then one a line; print each one's milliseconds a turn.

    Without the server's own.
    """
    out = sys.stdout
    with Path(os.devnull).open("w") as sys.stdout:  # libraries may print there
        for _line in chain(("first",), sys.stdin):
            _spent()
            began = time.perf_counter()
            session()
            seconds = time.perf_counter() - began
            spent = _spent()
            assert spent["calls"] == TURNS, spent
            print(1000 * (seconds - spent["seconds"]) / TURNS, file=out, flush=True)


def _spent() -> dict[str, Any]:
    place = urlsplit(URL)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    connection.request("GET", "/spent")
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer
