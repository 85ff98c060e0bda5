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
    program = find(name, config)
    folder = paths.mcp / name
    with storage_errors(folder, "make the folder writable", "cannot be made"):
        private_folder(folder)
    home = str(folder)
    env = {"PATH": PROGRAM_PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    env |= {key: _resolved(value, name, key) for key, value in config.env.items()}
    return Program(python("agentd.mcp.launch", program, *config.args), env, folder)


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


def _resolved(value: str, server: str, key: str) -> str:
    if value.startswith(SECRET):
        raise ConfigError(
            f"there is no secret {value.removeprefix(SECRET)}",
            where=f"[mcp.{server}] env.{key}",
            hint="write the value itself",
        )
    return value
