"""How an MCP server's program is started: its command line, its environment, its sandbox."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agentd.config.agent import ServerPermissions
from agentd.config.daemon import DaemonConfig
from agentd.config.mcp_servers import McpConfig
from agentd.config.secret_values import with_secrets
from agentd.errors import ConfigError, storage_errors
from agentd.mcp.launch import SANDBOX_VARIABLE
from agentd.paths import Paths, expanded, private_folder
from agentd.process.child import python
from agentd.process.environment import PROGRAM_PATH
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.sandbox.policy import SandboxPolicy, base_read, executables

FETCHERS = ("npx", "uvx", "bunx", "pipx", "docker")  # programs that fetch what they run
LIBRARIES = ("lib", "lib64", "libexec", "pyvenv.cfg")  # beside a program's folder: what it loads


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
    home = str(folder)
    env = {"PATH": PROGRAM_PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    env["GIT_CONFIG_NOSYSTEM"] = "1"  # else git fails over a file that it may not read
    for key, value in config.env.items():
        try:
            env |= with_secrets({key: value}, paths)
        except ConfigError as error:
            place = f"[mcp.{name}] env.{key}"
            raise ConfigError(error.what, where=place, hint=error.hint) from error
    policy = _sandbox(config.permissions, program, env["PATH"], folder, paths)
    if proxy is not None:
        url, port = proxy
        env |= {"http_proxy": url, "https_proxy": url}
        policy = replace(policy, ports=(port,), sockets="tcp")
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
    permissions: ServerPermissions, program: str, path: str, folder: Path, paths: Paths
) -> SandboxPolicy:
    """Return what a server may touch: what is listed, its own folder, and what it is made of."""
    listed = [found for name in permissions.run if (found := shutil.which(name, path=path))]
    run = [part for one in (program, *listed) for part in executables(one, path)]
    read = [str(expanded(place)) for place in permissions.read]
    write = [str(expanded(place)) for place in permissions.write]
    made_of = [place for part in run for place in _made_of(part)]
    own = (paths.data, paths.logs, paths.run, paths.sockets, paths.config)
    return SandboxPolicy(
        read=tuple(dict.fromkeys((*base_read(), *read, *write, *made_of, str(folder)))),
        write=(*write, str(folder)),
        run=tuple(dict.fromkeys(run)),
        closed=tuple(map(str, (*own, paths.agents, paths.baml_src))),
    )


def _made_of(program: str) -> Iterator[str]:
    """Give where a program's libraries are, by its name and by its real place."""
    for file in {Path(program), Path(os.path.realpath(program))}:
        yield str(file)  # a script is read, too
        if file.parent.name in ("bin", "sbin"):
            folder = file.parent.parent
            yield from (str(place) for name in LIBRARIES if (place := folder / name).exists())
        yield from (str(place) for place in file.parents if place.name == "node_modules")
