"""Tools of MCP servers in a version: their definitions and their BAML classes, as files of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.admission.version import Accepted, SourceFile, declared_by
from agentd.config.last_good import effective_config
from agentd.config.suggest import did_you_mean
from agentd.errors import ConfigError
from agentd.llm.decision import DONE
from agentd.llm.mcp_tools import baml_source, described
from agentd.mcp.definitions import FILE, McpTool, by_decision, split, written
from agentd.mcp.pins import Pins
from agentd.paths import Paths
from agentd.tools.declared_tools import REGISTRY

BAML = "baml_src/mcp.baml"

# Where definitions of tools come from: `Pins.of` or `Pins.known`.
Definitions = Callable[[Pins, Sequence[str]], Mapping[str, dict[str, Any]]]


def mcp_sources(
    draft: Accepted, module: SourceFile, toml: Path, paths: Paths, definitions: Definitions
) -> list[SourceFile]:
    """Return the files of the MCP tools that an agent names, none for one that names none.

    Raises:
        ConfigError: a server or tool is not there; or what `definitions` raises.
    """
    try:
        servers = effective_config(paths).mcp
    except ConfigError:  # agentd.toml is wrong, which is told by itself
        servers = {}
    text = module.data + draft.config.model_dump_json().encode()
    if not any(f"{name}.".encode() in text for name in servers):
        return []  # most agents: nothing of them is imported for it
    named: dict[str, list[str]] = {}
    for word in declared_by(draft, module, toml).tools:
        if (parts := split(word)) is not None:
            named.setdefault(parts[0], []).append(parts[1])
    tools = []
    for server, wanted in named.items():
        if server not in servers:
            raise ConfigError(
                f"there is no MCP server {server}{did_you_mean(server, servers)}",
                where=str(toml),
                hint=f"describe it in [mcp.{server}] of agentd.toml",
            )
        config = servers[server]
        found = definitions(Pins(server, config, paths), wanted)
        tools += [McpTool(server, tool, found[tool], config.string_max) for tool in wanted]
    if not tools:
        return []
    shown = by_decision(described(tools))
    for own in shown.keys() & {*REGISTRY, DONE}:
        raise ConfigError(
            f"{shown[own].name} would be the class {own}, which is agentd's own",
            where=str(toml),
            hint=f"give its server another name than {shown[own].server} in agentd.toml",
        )
    return [
        SourceFile(toml, FILE, written(shown)),
        SourceFile(toml, BAML, baml_source(shown.values()).encode()),
    ]
