"""A recording's file: plain text in sections, for people to read and for git to compare.

    agentd recording, format 1
    === head                   JSON: agent, session, event, config, facts, model, version ...
    === prompt system          a message of the prompt; the last one is what comes before the log
    === log                    the event log exactly as the model saw it, to the session's end
    === steps                  a JSON object a line: decisions with the model's raw answer, and
                               what belongs to each event of the log, in its order
    === file 0/src/main.py     a file below the first of the head's volatile paths
    === base64 0/logo.png      the same, of a file that is no plain text
    === folder 0/src           JSON: the entries that a listing showed
    === repository 0           JSON: head, refs, shallow; then a git pack in base64
    === page https://host/     JSON: url; then what the page said
    === end

A section's text ends before the next line that begins with `===`; such a line inside a text is
written with a backslash before it. The file ends with `=== end`, so that a cut one is noticed.
"""

from pathlib import Path

from agentd.errors import RecordingError
from agentd.replay.reader import read
from agentd.replay.recording import Recording
from agentd.replay.writer import write
from agentd.whole import write_whole

__all__ = ["SUFFIX", "load", "read", "save", "write"]

SUFFIX = ".recording"
BYTES_MAX = 64_000_000


def load(path: Path) -> Recording:
    """Read a recording's file.

    Raises:
        RecordingError: it is no recording, of another format, cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)  # a device has no size to be asked for
    except OSError as error:
        raise RecordingError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            hint="name a file that `agentd record` wrote, or a session's id",
        ) from error
    if len(data) > BYTES_MAX:
        raise RecordingError(f"is larger than {BYTES_MAX} bytes", where=str(path))
    return read(data.decode("utf-8", "replace"), str(path))


def save(recording: Recording, path: Path) -> None:
    """Write the recording's file, whole or not at all, readable by this user alone.

    Raises:
        RecordingError: it cannot be written, or would not be read again.
    """
    content = write(recording)
    read(content, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise RecordingError(
            f"cannot be written: {error.strerror}", where=str(path), hint="choose another with -o"
        ) from error
