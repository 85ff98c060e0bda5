"""A `launchctl` for tests: one service, as launchd is documented and seen to treat it.

Its state is a JSON file, its calls are a log beside it. It really starts and stops the program.
"""

import json
import os
import plistlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "FAKE_LAUNCHD"
LETS_GO = 2  # calls of `print` that still find a service after its bootout
REFUSES = 2  # calls of `bootstrap` that fail with 5 after that


def main(words: list[str]) -> int:
    folder = Path(os.environ[FOLDER_VARIABLE])
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    path = folder / "state.json"
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    code = _call(words, state)
    path.write_text(json.dumps(state))
    return code


def _call(words: list[str], state: dict[str, Any]) -> int:
    loaded = "plist" in state
    match words:
        case ["print", _]:
            if state.get("lets_go"):
                state["lets_go"] -= 1
                return 0
            return 0 if loaded else _fail(113, "Could not find service")
        case ["enable", _]:
            state.pop("disabled", None)
            return 0
        case ["bootstrap", _, plist]:
            if state.get("disabled"):
                return _fail(5, "Bootstrap failed: 5: Input/output error")
            if loaded or state.get("refuses"):
                state["refuses"] = max(0, state.get("refuses", 0) - 1)
                return _fail(5, "Bootstrap failed: 5: Input/output error")
            state["plist"] = plist
            _start(state)
            return 0
        case ["bootout", _]:
            if not loaded:
                return _fail(3, "Boot-out failed: 3: No such process")
            _signal(state, signal.SIGTERM)
            del state["plist"]
            state.update(lets_go=LETS_GO, refuses=REFUSES)
            return 0
        case ["kickstart", "-k", _] if loaded:
            _signal(state, signal.SIGKILL)
            _start(state)
            return 0
        case ["kickstart", _] if loaded:
            if not _alive(state):
                _start(state)
            return 0
        case ["kickstart", *_]:
            return _fail(113, "Could not find service")
        case ["kill", "SIGTERM", _]:
            return 0 if loaded and _signal(state, signal.SIGTERM) else _fail(3, "No process")
    return _fail(64, "Unrecognized subcommand")


def _fail(code: int, text: str) -> int:
    print(text, file=sys.stderr)
    return code


def _start(state: dict[str, Any]) -> None:
    job = plistlib.loads(Path(state["plist"]).read_bytes())
    process = subprocess.Popen(
        job["ProgramArguments"],
        env={"HOME": os.environ["HOME"], **job["EnvironmentVariables"]},
        cwd=job["WorkingDirectory"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    state["pid"] = process.pid


def _alive(state: dict[str, Any]) -> bool:
    try:
        os.kill(state["pid"], 0)
    except (KeyError, ProcessLookupError):
        return False
    return True


def _signal(state: dict[str, Any], number: int) -> bool:
    if not _alive(state):
        return False
    os.kill(state["pid"], number)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
