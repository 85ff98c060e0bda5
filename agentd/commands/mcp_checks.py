"""What `agentd check` knows of MCP servers: wrong tables, and what changed in their tools."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agentd.commands.daemon_commands import send_commands
from agentd.commands.output import GREEN, RED, colour, plain, print_json, say
from agentd.config.daemon import load_daemon
from agentd.config.mcp_servers import McpConfig
from agentd.config.suggest import did_you_mean, listed
from agentd.errors import ConfigError, UsageError
from agentd.hands.mcp_program import fetches, find
from agentd.mcp.pins import Pins
from agentd.paths import Paths
from agentd.states import Exit
from agentd.views.daemon_state import daemon_state


def server_problem(servers: Mapping[str, McpConfig], file: Path) -> ConfigError | None:
    """Return the first program that is not installed."""
    for name, config in servers.items():
        try:
            if config.command is not None:
                find(name, config)
        except ConfigError as error:
            return ConfigError(error.what, where=f"{file}: {error.where}", hint=error.hint)
    return None


def server_advice(servers: Mapping[str, McpConfig]) -> Iterator[str]:
    """Yield what may keep servers from starting."""
    for name, config in servers.items():
        if fetches(config):
            yield (
                f"[mcp.{name}]: {config.command} fetches its program from the network, perhaps "
                "another one each time, by hosts of `net`; install it, and name that program"
            )


def accept(name: str | None, paths: Paths, *, as_json: bool) -> int:
    """Show how the tools of one server, or all, differ from what was accepted; accept them.

    Raises:
        UsageError: there is no such server.
        ConfigError: a server cannot be asked now.
    """
    servers = load_daemon(paths.daemon_file).mcp
    if name is not None and name not in servers:
        raise UsageError(
            f"there is no MCP server {name}{did_you_mean(name, servers)}",
            hint=f"agentd.toml has {listed(servers, none='none')}",
        )
    differences: dict[str, list[str]] = {}
    accepted: list[str] = []
    for server in [name] if name is not None else sorted(servers):
        pins = Pins(server, servers[server], paths)
        lines, now = pins.difference()
        differences[server] = list(lines)
        if not as_json:
            _print_difference(server, lines)
        if lines and (as_json or _wanted(server)):
            pins.accept(now)
            accepted.append(server)
            if not as_json:
                say(f"{server}  {colour('accepted', GREEN)}")
    if as_json:
        done = "accepted" if accepted else None
        print_json({"done": done, "servers": accepted, "differences": differences})
    if accepted and daemon_state(paths) is not None:
        send_commands(paths, "reload", {}).close()
    return Exit.OK


def _print_difference(server: str, lines: Sequence[str]) -> None:
    if not lines:
        say(f"{server}  {colour('nothing changed', GREEN)}")
    for line in lines:
        code = {"+": GREEN, "-": RED}.get(line[:1])
        say(colour(plain(line), code) if code else plain(line))


def _wanted(server: str) -> bool:
    """Ask a person at a terminal; whoever calls it in a script has said it."""
    if not sys.stdin.isatty():
        return True
    return input(f"accept these tools of {server}? [y/N] ").strip().lower() in ("y", "yes")
