"""What `agentd check` says of permissions that are right, and yet not what they may look like."""

from collections.abc import Iterator

from agentd.config.agent import Permissions
from agentd.errors import ConfigError, ToolError
from agentd.paths import Paths, expanded
from agentd.tools.closed import Closed
from agentd.tools.place import locate


def cautions(name: str, permissions: Permissions, paths: Paths) -> Iterator[str]:
    """Yield what a person should know of an agent's permissions, a sentence each."""
    if permissions.run:
        yield (
            f"{name} may run {', '.join(permissions.run)}: a program has all the rights of this "
            "user, whatever `read`, `write` and `net` say, and many can be told to run others"
        )
    closed = Closed.of(paths, name, None)
    for key in ("read", "write"):
        marks = closed.marks(writing=key == "write")
        for place in getattr(permissions, key):
            try:
                locate(str(expanded(place)), [place], marks)
            except (ToolError, ConfigError) as error:
                yield f"{name} lists {place} in `{key}` in vain: {error.what}"
