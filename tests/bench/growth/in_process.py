"""Commands of agentd that run in this process, so that what they do can be counted."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from agentd.cli import main
from agentd.paths import HOME_VARIABLE


def said(words: list[str]) -> str:
    """Run one command here; return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = main(words)
    assert code in (0, 3), out.getvalue()  # 3: no daemon runs
    return out.getvalue()


@contextlib.contextmanager
def at_home(folder: Path) -> Iterator[None]:
    """Let commands of this process work on this home."""
    before = os.environ.get(HOME_VARIABLE)
    os.environ[HOME_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[HOME_VARIABLE]
        if before is not None:
            os.environ[HOME_VARIABLE] = before
