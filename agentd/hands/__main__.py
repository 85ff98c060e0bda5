"""`python -m agentd.hands`: an agent's hands. Started by the supervisor, with a control socket.

In this order: a guardian, orders, the sandbox, threads. What is imported here is imported for every
agent whose hands live, and before its first call: 40 ms, and 10 MB.
"""

import os
import socket
import sys

from agentd.process.deferred import deferred, uncollected

# Brought along, and never used here: 8 ms.
with deferred("inspect"):
    import dataclasses  # noqa: F401
with deferred("urllib.parse"):
    import pathlib  # noqa: F401
with uncollected():
    from agentd.errors import AgentdError
    from agentd.hands.hands import Hands
    from agentd.hands.orders import READY, Orders
    from agentd.process.channel import Channel
    from agentd.process.child import CONTROL_VARIABLE, child_side, inherited
    from agentd.sandbox.enter import enter
    from agentd.sandbox.machine_share import first_to_go
    from agentd.states import Exit

ORDERS_S = 20.0  # for the supervisor to send them


def main() -> int:
    """Serve until nobody calls any more; returns the exit code."""
    control = inherited(os.environ, CONTROL_VARIABLE)
    if control is None:
        raise SystemExit("python -m agentd.hands is started by the supervisor")
    channel = Channel(socket.socket(fileno=control))
    made: list[Hands] = []

    def enter_sandbox() -> None:
        orders = Orders.of(channel.receive(ORDERS_S)[0])
        made.append(Hands(channel, orders))
        first_to_go()  # with what it starts
        os.umask(0)  # in there no mode can be changed: each file is made with its own
        os.environ["TMPDIR"] = orders.scratch
        if sys.platform == "linux":  # on macOS they were started in it
            enter(orders.sandbox, require=orders.require)

    try:
        child_side(before_threads=enter_sandbox)
    except AgentdError as error:
        channel.send({"error": {**error.document(), "kind": type(error).__name__}})
        return Exit.FAILED
    channel.send({READY: True})
    made[0].run()
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
