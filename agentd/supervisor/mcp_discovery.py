"""`python -m agentd.supervisor.mcp_discovery NAME`: has one MCP server asked which tools it has.

For the admission of agents and for `agentd check`, which work without a daemon. All is as in the
daemon: the server's program is in its sandbox, who reads what it says is in the MCP host's, and
both reach the network by a fetcher alone. Configuration comes from the home in AGENTD_HOME; the
answer is one JSON line. Standard input is the lifeline: whoever asked closes it when it has the
answer, waits no longer or is gone, and then our whole group ends.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agentd.clock import SystemClock
from agentd.config.daemon import DaemonConfig
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, ConfigError, PermissionRefused
from agentd.fetcher.proxy_place import ProxyPlace, new_place
from agentd.fetcher.resolver import fetcher_policy
from agentd.hands.mcp_program import program_of
from agentd.mcp.host_policy import host_policy
from agentd.net.exchange import place_of
from agentd.net.wait import Deadline, Waiter
from agentd.paths import Paths, discover
from agentd.process import environment, guardian
from agentd.process.channel import Channel
from agentd.process.child import CONTROL_VARIABLE, python
from agentd.process.stop import Cancel
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.sandbox.policy import SandboxPolicy
from agentd.secret_rules import hide
from agentd.supervisor.argv import Commands
from agentd.tools.http import addresses, check_url

LOOK_UP_S = 10.0  # of a server's host
HAND_OVER_S = 1.0  # to the fetcher


def tools_of(name: str, daemon: DaemonConfig, paths: Paths) -> dict[str, Any]:
    """Return what a server says of its tools.

    Raises:
        ConfigError: it is not installed, lacks a secret, or is where agents' calls are refused.
        SandboxUnavailable: this system has not the sandbox that agentd.toml wants.
        AgentdError: it cannot be started or reached, or does not say.
    """
    config, require = daemon.mcp[name], daemon.sandbox.required
    demand(require)
    if config.url is not None:
        _check_public(name, config.url)
        with _way_to([place_of(config.url)], require) as proxy:
            assert proxy is not None
            orders = {"require": require, "url": config.url, "proxy": proxy.url}
            return _asked(host_policy(paths, proxy.port), orders)
    with _way_to(config.permissions.net, require) as proxy:
        way = (proxy.url, proxy.port) if proxy else None
        program = program_of(name, daemon, paths, way)
        pipe = subprocess.PIPE
        with subprocess.Popen(
            program.argv,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=program.env,
            cwd=program.folder,
        ) as server:
            try:
                pipes = [p.fileno() for p in (server.stdin, server.stdout, server.stderr) if p]
                return _asked(host_policy(paths, None), {"require": require, "pipes": pipes}, pipes)
            finally:
                server.kill()


@contextmanager
def _way_to(net: Sequence[str], require: bool) -> Iterator[ProxyPlace | None]:
    """Yield a fetcher's proxy to these hosts, None where there are none."""
    if not net:
        yield None
        return
    place, listening, document = new_place(1, net)
    control, theirs = socket.socketpair()
    with control:
        with listening, theirs:
            fetcher = subprocess.Popen(
                put_into(fetcher_policy(), Commands().fetcher(require)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment.for_child() | {CONTROL_VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
            )
            Channel(control).send(document, (listening.fileno(),), deadline_s=HAND_OVER_S)
        with fetcher:
            try:
                yield place
            finally:
                fetcher.kill()


def _asked(
    policy: SandboxPolicy, orders: Mapping[str, Any], pipes: Sequence[int] = ()
) -> dict[str, Any]:
    """Have it asked in the host's sandbox, and return its tools."""
    done = subprocess.run(
        put_into(policy, python("agentd.mcp.discovery")),
        input=json.dumps({**orders, "sandbox": policy.document()}).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment.for_child(),
        pass_fds=pipes,
        check=False,
    )
    try:
        answer = dict(json.loads(done.stdout))
    except ValueError as error:
        raise AgentdError(f"who asks it died (exit {done.returncode})") from error
    if (said := answer.get("error")) is not None:  # perhaps a secret that it was started with
        raise AgentdError(hide(said["what"]), where=said["where"], hint=said["hint"])
    return dict(answer["tools"])


def _check_public(name: str, url: str) -> None:
    """Raise ConfigError where the fetcher refuses agents' calls, with what there is to do."""
    place = place_of(url)
    target = check_url(url, [place])
    try:
        with Waiter.of(Deadline(SystemClock(), LOOK_UP_S), Cancel()) as waiter:
            addresses(target, [place], waiter)
    except PermissionRefused as error:
        hint = "if you mean that server, write its address into `url` in the place of its name"
        raise ConfigError(error.what, where=f"[mcp.{name}]: url", hint=hint) from error


def main(argv: list[str]) -> int:
    """Print what the server NAME has, or what is wrong."""
    guardian.watch(0)
    (name,) = argv
    paths = discover()
    try:
        answer: dict[str, Any] = {"tools": tools_of(name, effective_config(paths), paths)}
    except AgentdError as error:
        answer = {"error": error.document()}
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
