"""`python -m agentd.deliver`: started by the supervisor, with a control socket."""

import os
import sys

from agentd.bus.wake import Bell
from agentd.config.daemon import DaemonConfig
from agentd.deliver.confined import deliver_policy
from agentd.deliver.deliver import Deliver
from agentd.events import DELIVER
from agentd.paths import Paths
from agentd.process.confined_process import ConfinedProcess
from agentd.sandbox.enter import enter


def main() -> int:
    """Deliver until the supervisor stops it; returns the exit code."""
    ours = ConfinedProcess(DELIVER, ("deliver.started", "deliver.ended", "deliver.raised"))

    def confine(paths: Paths, config: DaemonConfig) -> None:
        Bell(paths.wake)  # by a socket that cannot be made in there
        os.umask(0)  # in there no mode can be changed: a file gets its mode as it is made
        enter(deliver_policy(config.deliver, paths), require=config.sandbox.required)

    def serve() -> None:
        Deliver(ours.paths, ours.config, ours.heart, ours.link, ours.log).run()

    return ours.run(confine, serve, lambda config: {"ways": config.deliver.ways})


if __name__ == "__main__":
    sys.exit(main())
