"""The tools of a fork: a recording lacks what its session did not read, and the model is told."""

from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentd.agent import Result
from agentd.errors import PermissionRefused, ToolError
from agentd.tools import Toolbox
from agentd.tools.place import locate


class PartialToolbox(Toolbox):
    """Tools for a model that may read what the recorded one only saw listed."""

    def __init__(self, tools: Toolbox, unread: Container[Path]) -> None:
        super().__init__(tools.permissions)
        self._tools, self._unread, self.cancel = tools, unread, tools.cancel

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run the tool; say of a file without contents that the recording lacks them."""
        try:
            return self._tools.call(name, args)
        except PermissionRefused:
            raise
        except ToolError as error:
            if name == "ReadFile" and self._is_unread(str(args.get("path", ""))):
                what = f"{args['path']} is not in this recording: the session did not read it"
                raise ToolError(what) from error
            raise

    def _is_unread(self, path: str) -> bool:
        with suppress(ToolError):
            return Path(locate(path, self.permissions.read).path) in self._unread
        return False
