"""What the demo found, as a page: each part is shown once it is there, and all can be kept."""

import os
from pathlib import Path

from agentd.commands.output import BOLD, colour, plain, say, say_lines
from agentd.errors import AgentdError, UsageError
from agentd.terminal import plain_lines
from agentd.whole import write_whole

OTHER_NAME = "name a file that is not there yet"


class Page:
    """A page in Markdown that reads well on a terminal."""

    def __init__(self) -> None:
        self._parts = ["# agentd demo"]

    def add(self, text: str, title: str = "") -> None:
        """Show a part, and keep it."""
        say()
        if title:
            say(colour(title, BOLD))
            self._parts.append(f"## {plain(title)}")
        say_lines(text, flush=True)
        self._parts.append(plain_lines(text))

    @staticmethod
    def check_free(file: Path) -> None:
        """Say that nothing can be saved there before any work is done for it.

        Raises:
            UsageError: there is something of that name, or no such folder.
        """
        if os.path.lexists(file):
            raise UsageError("is there already", where=str(file), hint=OTHER_NAME)
        if not os.access(file.parent, os.W_OK | os.X_OK) or not file.parent.is_dir():
            where = str(file.parent.absolute())
            raise UsageError("is no folder that can be written to", where=where, hint=OTHER_NAME)

    def save(self, file: Path) -> None:
        """Write the page into a new file that only its owner reads.

        Raises:
            AgentdError: it cannot be written, or is there by now; that is left as it was.
        """
        try:
            write_whole(file, "\n\n".join(self._parts) + "\n", new=True)
        except OSError as error:
            problem = error.strerror or error
            raise AgentdError(
                f"cannot be saved: {problem}", where=str(file), hint=OTHER_NAME
            ) from error
        say()
        say(f"saved as {file}")
