"""How an MCP server's program is started: its command line, environment and folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from agentd.config.mcp_servers import McpConfig
from agentd.errors import ConfigError, storage_errors
from agentd.paths import Paths, expanded, private_folder
from agentd.process.child import python
from agentd.process.environment import PROGRAM_PATH

SECRET = "secret:"  # begins a value that does not stand in the file
FETCHERS = ("npx", "uvx", "bunx", "pipx", "docker")  # programs that fetch what they run


@dataclass(frozen=True)
class Program:
    """What to start, by `agentd.mcp.launch`."""

    argv: list[str]
    env: dict[str, str]
    folder: Path  # its own: where it runs, its HOME and its temporary files


def program_of(name: str, config: McpConfig, paths: Paths) -> Program:
    """Return what to start for a server, its folder made.

    Raises:
        ConfigError: the program is not installed, or a secret of its environment is not there.
        StorageError: its folder cannot be made.
    """
    assert config.command is not None
    folder = paths.mcp / name
    with storage_errors(folder, "make the folder writable", "cannot be made"):
        private_folder(folder)
    home = str(folder)
    env = {"PATH": PROGRAM_PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    env |= {key: _resolved(value, name, key) for key, value in config.env.items()}
    found = shutil.which(str(expanded(config.command)), path=env["PATH"])
    if found is None:
        raise ConfigError(
            f"{config.command} is not installed in {env['PATH']}",
            where=f"[mcp.{name}] command",
            hint="write its whole path, or install it",
        )
    return Program(python("agentd.mcp.launch", found, *config.args), env, folder)


def fetches(config: McpConfig) -> bool:
    """Whether the command fetches its program from the network when it is not at hand."""
    return config.command is not None and Path(config.command).name in FETCHERS


def _resolved(value: str, server: str, key: str) -> str:
    if value.startswith(SECRET):
        raise ConfigError(
            f"there is no secret {value.removeprefix(SECRET)}",
            where=f"[mcp.{server}] env.{key}",
            hint="write the value itself",
        )
    return value
