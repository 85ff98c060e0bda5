"""What the process that sends results may touch: the database, its log, the folder of its files.

No network and no program: its sockets are channels that the supervisor hands over.
"""

import os
from pathlib import Path

from agentd.config.delivery import DeliverConfig
from agentd.errors import ConfigError
from agentd.events import DELIVER
from agentd.paths import Paths, expanded
from agentd.sandbox.policy import SandboxPolicy, base_read, libraries


def day_folder(config: DeliverConfig, paths: Paths) -> Path | None:
    """Return the folder of the files, by way of links; None where none are written.

    Raises:
        ConfigError: it is not a person's: agentd's own files lie in there, or it lies among them.
    """
    if config.file is None:
        return None
    folder = Path(os.path.realpath(expanded(config.file.folder, where="deliver.file.folder")))
    for own in (paths.user, paths.data, paths.logs, paths.run):
        real = Path(os.path.realpath(own))
        if folder.is_relative_to(real) or real.is_relative_to(folder):
            raise ConfigError(
                f"agentd's own files are in {own}",
                where=f"deliver.file.folder: {folder}",
                hint="name another folder in agentd.toml",
            )
    return folder


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
