"""The head's sandbox: what a worker's own process may touch, and with it the agent's own Python.

`[permissions]` bind the model and the hands. This binds whoever wrote the agent's module as well.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from agentd.admission.version import CONFIG, Accepted
from agentd.bus.wake import Bell
from agentd.config.agent import AgentConfig, Permissions, load_agent
from agentd.errors import ConfigError
from agentd.paths import Paths
from agentd.sandbox.enter import enter, put_into
from agentd.sandbox.level import reached
from agentd.sandbox.policy import SandboxPolicy, base_read, libraries


def enter_head(accepted: Accepted, paths: Paths, *, require: bool, forked: bool) -> None:
    """Put this worker, of one thread, into its sandbox. `require`: one that is whole.

    On macOS it was started in it, unless it was `forked`.

    Raises:
        SandboxUnavailable: there is none here.
    """
    Bell(paths.wake)  # by a socket that cannot be made in there
    policy = policy_for(accepted.folder, accepted.config, paths)
    enter(policy, require=require, forked=forked)


def head_command(argv: list[str], folder: Path, paths: Paths) -> list[str]:
    """Return the command line of the worker of a version; on macOS it starts it in its sandbox."""
    if sys.platform != "darwin" or reached().name != "full":
        return argv
    try:
        config = load_agent(folder / CONFIG)
    except ConfigError:
        config = None  # the worker says so, and runs nothing of it
    return put_into(policy_for(folder, config, paths), argv)


def policy_for(folder: Path, config: AgentConfig | None, paths: Paths) -> SandboxPolicy:
    """Return what the worker of the version in this folder may touch.

    It executes nothing and has no network: its supervisor makes its sockets, to the model as well.
    """
    name = folder.parent.name
    own = tuple(map(str, (paths.log(name).parent, paths.scratch / name, paths.database_room)))
    told = (folder, paths.daemon_file, paths.accepted_daemon_file, paths.lock, paths.wake)
    policy = SandboxPolicy(
        read=(*base_read(), *libraries(paths), *own, *map(str, told)),
        write=own,
        # On macOS it reaches those in the folders above, and no others.
        sockets="unix" if sys.platform == "darwin" else "none",
    )
    if config is not None and config.sandbox.head == "files":
        return _with_files(policy, name, config.permissions, paths)
    return policy


def _with_files(
    policy: SandboxPolicy, name: str, permissions: Permissions, paths: Paths
) -> SandboxPolicy:
    """Add what [permissions] list, as hands get it: nothing of agentd's own that lies in there."""
    from agentd.hands.permitted import sandbox_for, written_in  # not for those that need none
    from agentd.tools.closed import Closed

    closed = Closed.of(paths, name, None)
    given = sandbox_for(permissions, closed, paths.scratch / name, partial(written_in, paths))
    own = [Path(path) for path in policy.write]
    return replace(
        policy,
        read=(*policy.read, *given.read),
        write=(*policy.write, *given.write),
        closed=tuple(p for p in given.closed if not any(Path(p).is_relative_to(o) for o in own)),
        protected=given.protected,
        settled=given.settled,
    )
