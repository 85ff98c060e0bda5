"""How an MCP server's program is started: its command line, its environment, its sandbox."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agentd.config.agent import ServerPermissions
from agentd.config.daemon import DaemonConfig
from agentd.config.mcp_servers import McpConfig
from agentd.config.secret_values import with_secrets
from agentd.errors import ConfigError, storage_errors
from agentd.hands.permitted import sandbox_for, written_in
from agentd.mcp.launch import SANDBOX_VARIABLE
from agentd.paths import Paths, expanded, private_folder
from agentd.process.child import python
from agentd.process.environment import PROGRAM_PATH, for_program
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.sandbox.policy import SandboxPolicy, executables
from agentd.tools.closed import Closed

FETCHERS = ("npx", "uvx", "bunx", "pipx", "docker")  # programs that fetch what they run


@dataclass(frozen=True)
class Program:
    """What to start, by `agentd.mcp.launch`."""

    argv: list[str]
    env: dict[str, str]
    folder: Path  # its own: where it runs, its HOME and its temporary files


def program_of(
    name: str, daemon: DaemonConfig, paths: Paths, proxy: tuple[str, int] | None = None
) -> Program:
    """Return what to start for a server, its folder made.

    `proxy`: its one way to the network, the URL and the port on this machine; else it has none.

    Raises:
        ConfigError: it is not installed, or a secret of its environment is not there.
        SandboxUnavailable: it would run without the sandbox that agentd.toml wants.
        StorageError: its folder cannot be made.
    """
    config, require = daemon.mcp[name], daemon.sandbox.required
    program = find(name, config)
    demand(require)
    folder = paths.mcp / name
    with storage_errors(folder, "make the folder writable", "cannot be made"):
        private_folder(folder)
    # Without its last word git fails over a file that it may not read.
    env = {**for_program(str(folder)), "GIT_CONFIG_NOSYSTEM": "1"}
    for key, value in config.env.items():
        try:
            env |= with_secrets({key: value}, paths)
        except ConfigError as error:
            place = f"[mcp.{name}] env.{key}"
            raise ConfigError(error.what, where=place, hint=error.hint) from error
    policy = _sandbox(daemon, config.permissions, program, env["PATH"], paths, name)
    if proxy is not None:
        url, port = proxy
        env |= {"http_proxy": url, "https_proxy": url}
        policy = policy.reaching(port)
    told = {"policy": policy.document(), "require": require}
    argv = put_into(policy, python("agentd.mcp.launch", program, *config.args))
    return Program(argv, env | {SANDBOX_VARIABLE: json.dumps(told)}, folder)


def find(name: str, config: McpConfig) -> str:
    """Return the path of a server's program.

    Raises:
        ConfigError: it is not installed.
    """
    assert config.command is not None
    path = config.env.get("PATH", PROGRAM_PATH)
    found = shutil.which(str(expanded(config.command)), path=path)
    if found is None:
        raise ConfigError(
            f"{config.command} is not installed in {path}",
            where=f"[mcp.{name}] command",
            hint="write its whole path, or install it",
        )
    return found


def fetches(config: McpConfig) -> bool:
    """Whether the command fetches its program from the network when it is not at hand."""
    return config.command is not None and Path(config.command).name in FETCHERS


def _sandbox(
    daemon: DaemonConfig,
    permissions: ServerPermissions,
    program: str,
    path: str,
    paths: Paths,
    name: str,
) -> SandboxPolicy:
    """Return what a server may touch: what is listed, its own folder, and what it is made of.

    As an agent's programs, but that it reads what it may write, and nothing of what agents are.
    """
    key = daemon.model.api_key_file
    closed = Closed.of(paths, "", expanded(key) if key else None)
    closed = replace(closed, own=(*closed.own, *closed.spared), spared=())
    listed = [found for name in permissions.run if (found := shutil.which(name, path=path))]
    run = [part for one in (program, *listed) for part in executables(one, path)]
    written = partial(written_in, paths)
    policy = sandbox_for(permissions, closed, paths.mcp / name, written, run)
    return replace(policy, read=tuple(dict.fromkeys((*policy.read, *policy.write))))
