"""A BAML client for tools of MCP servers beside the shipped ones, as an agent's check makes it."""

from pathlib import Path

from agentd.admission.compile import compile_client
from agentd.llm.mcp_tools import baml_source
from agentd.mcp.definitions import McpTool
from agentd.paths import shipped


def compile_tools(folder: Path, tools: list[McpTool]) -> None:
    """Write the sources into `folder`/baml_src, and the client beside them."""
    sources = folder / "baml_src"
    sources.mkdir()
    for name in ("clients.baml", "tools.baml", "task.baml"):
        (sources / name).write_bytes((shipped() / "baml_src" / name).read_bytes())
    (sources / "mcp.baml").write_text(baml_source(tools))
    compile_client(folder, {})
