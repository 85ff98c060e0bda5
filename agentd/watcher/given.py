"""Files that a person names, for the agents that watch such files."""

import os
from collections.abc import Mapping
from pathlib import Path

from agentd.bus import Bus
from agentd.bus.seen import SeenFile
from agentd.config.agent import AgentConfig
from agentd.config.watched import Pattern
from agentd.errors import AgentdError, PermissionRefused, ToolError, UsageError, shown
from agentd.events import PERSON
from agentd.macos import privacy
from agentd.states import Priority
from agentd.tools.place import locate
from agentd.watcher.contents import fingerprint
from agentd.watcher.look import File, file_of
from agentd.watcher.watch_policy import patterns
from agentd.watcher.watcher import event_of


def readers(path: Path, agents: Mapping[str, AgentConfig]) -> list[str]:
    """Return the agents that watch such a file, by its path as it is named or without links."""
    ways = {path, Path(os.path.realpath(path))}
    return [
        name
        for name, config in agents.items()
        if any(_means(pattern, way) for pattern in patterns(config) for way in ways)
    ]


def _means(pattern: Pattern, path: Path) -> bool:
    tops = {pattern.folder, Path(os.path.realpath(pattern.folder))}
    return any(
        pattern.matches(path.relative_to(top).parts) for top in tops if path.is_relative_to(top)
    )


def check_readable(name: str, path: Path, config: AgentConfig) -> None:
    """Make sure that the agent may read a file.

    Raises:
        AgentdError: it may not.
    """
    try:
        locate(str(path), config.permissions.read)
    except (PermissionRefused, ToolError) as error:
        raise AgentdError(
            f"{name} may not read it",
            where=shown(str(path)),
            hint="list its folder in [permissions] read of the agent's file",
        ) from error


def read(path: Path) -> tuple[File, str]:
    """Return a file and its fingerprint.

    Raises:
        UsageError: it is no file with content that is whole.
    """
    where = shown(str(path))
    try:
        if path.is_dir():
            raise UsageError("is a folder", where=where, hint="name the files in it")
        real = Path(os.path.realpath(path))
        file = file_of(str(real), real.stat(), Pattern(where, path.parent, (path.name,)))
        content = None if file is None else fingerprint(file, lambda: None)
    except OSError as error:
        raise UsageError(privacy.described(path, error), where=where) from error
    if file is None or content is None:
        why = "is empty, no regular file, in a cloud only, or being written"
        raise UsageError(why, where=where, hint="try again when it is whole")
    return file, content


def give(bus: Bus, name: str, file: File, content: str) -> tuple[int, bool]:
    """Tell an agent of a file, whether it has seen it or not; return the event's id, and True.

    False where it is not done yet with an event of this file as it is: it would do the same twice,
    and ask a person twice.
    """
    seen = SeenFile(content, shown(file.path), file.stamp)
    event = event_of(name, file, content)
    with bus.db.transaction():
        if (known := bus.seen.open_event(name, seen)) is not None:
            return known, False
        event_id = bus.seen.tell(
            name, seen, event, producer=PERSON, priority=Priority.PERSON, again=True
        )
    assert event_id is not None, "told again, it is always written"
    return event_id, True
