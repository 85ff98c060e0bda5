"""The same task as langgraph's ready-made agent, in memory or with its checkpoints in SQLite."""

import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent

from .rounds import TASK, TEXT, URL, take_turns


def read_file(path: str, start: int) -> str:
    """Read a file."""
    return TEXT


def run(checkpoints: Any) -> None:
    model = ChatOpenAI(base_url=URL, api_key="none", model="fake")
    graph = create_react_agent(model, [read_file], checkpointer=checkpoints)

    def session() -> None:
        graph.invoke(
            {"messages": [("user", TASK)]},
            {"configurable": {"thread_id": str(uuid4())}},
            # Each step is on disk before the next one begins, as agentd's are.
            **({"durability": "sync"} if checkpoints else {}),
        )

    take_turns(session)


if "--checkpoints" in sys.argv:
    from langgraph.checkpoint.sqlite import SqliteSaver

    with (
        tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder,
        SqliteSaver.from_conn_string(str(Path(folder) / "checkpoints.db")) as saver,
    ):
        run(saver)
else:
    run(None)
