"""The shared tools in a replay: they read the fixture, and change nothing for real."""

from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentd.agent import Agent, Result
from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.recordings.recording import Page
from agentd.replay.fixture import Pages
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.place import locate
from agentd.tools.toolbox import Toolbox

# Of the shared tools, those that a fixture answers. AskPerson only parks the session. What the
# others read is not kept as it came: a calendar's result depends on the day, a PDF's bytes may hide
# a secret from those who redact recordings.
READS = frozenset({"ListFiles", "ReadFile", "SearchText", "HttpGet", "AskPerson"})
# Those that change files, and nothing else.
WRITES = frozenset({"WriteFile", "AppendNote", "MoveFile"})


def only_reads(name: str, agent: type[Agent[Any]]) -> bool:
    """Whether a decision changes nothing, so that a replay carries it out again."""
    return name in READS if name in REGISTRY else name in agent.reads


def not_here(name: str) -> str:
    """Return why a replay does not carry a decision out that it has no recorded result of."""
    if name in REGISTRY and REGISTRY[name].effect == "none":
        return f"{name} reads what is not in a recording: a replay knows its recorded results alone"
    return f"{name} would change something: a replay runs it with --live-effects"


class FixtureToolbox(Toolbox):
    """Tools on a fixture, for an agent's code outside of a decision, too.

    None has effects but on the fixture's files, unless `live_effects`. `unread` are files that the
    recorded session only saw listed: a live model may want to read them.
    """

    def __init__(
        self,
        permissions: Permissions,
        own: str,
        pages: Mapping[str, Page],
        *,
        live_effects: bool,
        unread: Container[Path],
    ) -> None:
        super().__init__(permissions, own=own, connect=Pages(pages).connect)
        self._live_effects, self._unread = live_effects, unread

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run the tool; say of a file without contents that the recording lacks them."""
        harmless = name not in REGISTRY or name in READS or name in WRITES
        if not (harmless or self._live_effects):
            raise ToolError(not_here(name))
        try:
            return super().call(name, args)
        except PermissionRefused:
            raise
        except ToolError as error:
            if name == "ReadFile" and self._is_unread(str(args.get("path", ""))):
                what = f"{args['path']} is not in this recording: the session did not read it"
                raise ToolError(what) from error
            raise

    def _is_unread(self, path: str) -> bool:
        with suppress(ToolError):
            return Path(locate(path, self.grants.readable).path) in self._unread
        return False
