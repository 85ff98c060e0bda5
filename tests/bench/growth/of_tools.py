"""What grows with the tools in a union: those of MCP servers, with three arguments each."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentd.llm.baml import load_client
from agentd.llm.mcp_tools import described
from agentd.llm.union import Union
from agentd.mcp.definitions import McpTool, by_decision, pinned
from agentd.model_server.calls import Mask, Refused
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import make_tiny
from tests.mcp_client import compile_tools

from .scaling import Growth, Measured, least

SIZES = (1, 10, 50, 200, 500)
QUICK = SIZES[:3]
COMPILED = 5  # times, each with another text about it, so that it is not remembered
GIVEN = {"done": "it is read", "instructions": "Read the files."}
ANSWER = {"query": "a word", "limit": 5, "exact": True}


def measure(quick: bool) -> Iterator[Growth]:
    """Yield each figure with its values."""
    found = Measured("tools")
    with tempfile.TemporaryDirectory(prefix="agentd-growth-") as folder:
        make_tiny(Path(folder) / "model", window=32_768)
        language = ModelLanguage(Path(folder) / "model")
        for size in QUICK if quick else SIZES:
            here = Path(folder) / str(size)
            here.mkdir()
            _at(size, here, language, found)
    yield from found.rows()


def _at(size: int, folder: Path, language: ModelLanguage, found: Measured) -> None:
    def took(name: str, work: Callable[[], object], runs: int = 3, aim: str = "") -> None:
        seconds = least(work, runs=runs, seconds=0)
        found.add(size, name, "ms", seconds * 1000, *([aim] if aim else []))

    bare = [_tool(number) for number in range(size)]
    took("what the prompt says of them", lambda: described(bare))
    tools = described(bare)
    began = time.perf_counter()  # in a process of its own
    compile_tools(folder, tools)
    took_s = time.perf_counter() - began
    found.add(size, "admission: their client is compiled", "ms", took_s * 1000)
    client, mcp = load_client(folder / "baml_client"), by_decision(tools)
    members = (*mcp, "Done")
    names = frozenset(members)
    took("the union is built", lambda: Union(client, "Decide", members, {}, mcp))
    union = Union(client, "Decide", members, {}, mcp)
    took("the prompt's frame", lambda: union.frame(GIVEN))
    took("the schema", lambda: union.schema(names))
    schema, messages = union.schema(names), union.frame(GIVEN)
    body = {"messages": messages, "response_format": {"json_schema": {"schema": schema}}}
    found.add(size, "a request", "bytes", len(json.dumps(body)))
    answer = json.dumps({"tool": f"bench.tool{size - 1}", "arguments": ANSWER})
    took("an answer is parsed", lambda: union.parse(answer, names))
    try:
        each = (language.mask({**schema, "description": str(n)}) for n in range(COMPILED))
        took("the grammar is compiled", lambda: next(each), runs=COMPILED)
    except Refused:  # more schemas in one than are compiled at all
        return
    took("a mask for a request", lambda: language.mask(schema))
    took("the masks of an answer", lambda: _masks(language.mask(schema), language, answer))


def _masks(mask: Mask, language: ModelLanguage, answer: str) -> None:
    for token in language.encode(json.dumps(json.loads(answer), separators=(",", ":"))):
        mask.allowed()
        mask.accept(token)


def _tool(number: int) -> McpTool:
    properties: dict[str, Any] = {
        "query": {"type": "string", "description": "What is looked for."},
        "limit": {"type": "integer", "default": 10},
        "exact": {"type": "boolean"},
    }
    schema = {"type": "object", "properties": properties, "required": ["query"]}
    about = f"Finds what stands in part {number}."
    return McpTool(
        "bench", f"tool{number}", pinned({"description": about, "inputSchema": schema}), 200
    )
