"""What the process that sends results may touch: the database, its log, the folder of its files.

No network and no program: its sockets are channels that the supervisor hands over.
"""

import os
from pathlib import Path

from agentd.config.delivery import DeliverConfig, day_folder
from agentd.errors import ConfigError
from agentd.events import DELIVER
from agentd.paths import Paths
from agentd.sandbox.policy import SandboxPolicy, base_read, libraries


def deliver_policy(config: DeliverConfig, paths: Paths) -> SandboxPolicy:
    """Return what it may touch; a wrong folder is left out."""
    try:
        folder = day_folder(config, paths)
    except ConfigError:
        folder = None
    database = Path(os.path.realpath(paths.database)).parent
    own = [paths.log(DELIVER).parent, database, *([folder] if folder else [])]
    write = tuple(map(str, own))
    told = map(str, (paths.daemon_file, paths.accepted_daemon_file, paths.lock))
    return SandboxPolicy(read=(*base_read(), *libraries(paths), *write, *told), write=write)
