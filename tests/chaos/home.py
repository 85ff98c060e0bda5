"""The chaos test's home: agents in a row, a tiny model with random weights, quick restarts."""

import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agentd.paths import Paths, discover
from agentd.testing.tiny_model import make_tiny
from tests.ports import free_port

HERE = Path(__file__).parent
JOURNAL = "journal.jsonl"
PLACED = "order.placed"
# name: what it reads, what it passes on
PIPELINE = {
    "intake": (PLACED, "order.checked"),
    "packer": ("order.checked", "order.packed"),
    "biller": ("order.packed", "order.billed"),
    "keeper": ("order.checked", "order.kept"),
}
KEEPER = "keeper"  # uses the tools of an MCP server
ASKER = "biller"  # a person has to allow what it ships
SERVER = "fake_mcp_server.py"
TICKER = "ticker"  # answers its schedule and files that are dropped, on its direct lane
AGENTS = (*PIPELINE, TICKER)

# Backoffs are short: the test is about what is lost, and not about how long one may wait.
DAEMON = """\
[model]
name = "{model}"
[supervisor]
backoff_first = "50ms"
backoff_max = "500ms"
[bus]
poll = "1s"
[ui]
port = {port}
[deliver.file]
folder = "{days}"
[mcp.shelf]
command = "{python}"
args = ["{server}"]
env = {{ AGENTD_HOME = "{home}", FAKE_TOOLS = "{tools}", FAKE_JOURNAL = "{journal}" }}
permissions = {{ read = ["{server}", "{tools}"], write = ["{journal}"] }}
"""
AGENT = """\
agent = "station"
description = "{description}"
done = "The order is checked and shipped{words}."
start = "beginning"
{reads}
{watches}
[params]
journal = "{journal}"
stock = "{stock}"
publish = "{publish}"
site = "{site}"
[permissions]
net = [{net}]
read = ["{stock}", "{drop}"]
write = ["{journal}"]
run = ["sh"]
[sandbox]
head = "files"
[limits]
sessions_per_hour = 1000000
{approve}
"""
MCP_AGENT = """\
agent = "keeper"
description = "{description}"
done = "The order is booked and sent{words}."
start = "beginning"
{reads}
[params]
journal = "{journal}"
publish = "{publish}"
[permissions]
write = ["{journal}"]
[approve]
ShelfBook = "allow"
i_accept_the_risk = true
[sandbox]
head = "files"
[limits]
sessions_per_hour = 1000000
"""


def _tool(name: str, key: str, *values: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"enum": values}}, "required": [key]}
    hints = {"readOnlyHint": name == "look"}
    return {"name": name, "description": "", "inputSchema": schema, "annotations": hints}


TOOLS = [
    _tool("look", "looked", "left", "right"),
    _tool("book", "shelf", "upper", "lower"),
    _tool("send", "door", "front", "back"),
]


class Home:
    """A home under `root`, with everything in it that the pipeline needs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: Paths = discover({"AGENTD_HOME": str(root / "home")})
        self.days = root / "days"  # where results go
        self.journal, self.stock = root / JOURNAL, root / "stock.txt"
        self.environment = {"AGENTD_HOME": str(root / "home")}
        self.drop = root / "drop"
        self.site, self.fetched = "", 0  # of `serve`: its address, and how often it was asked
        self._edits = 0

    def serve(self) -> None:
        """Serve a page, for as long as this process lives, that each check of an order fetches."""
        home = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.fetched += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.site = f"127.0.0.1:{server.server_port}"

    def create(self) -> None:
        """Write model, agents, configuration, and what their tools touch."""
        self.journal.touch()
        self.drop.mkdir()
        self.stock.write_text("plenty of all")
        self.paths.create()
        model = make_tiny(self.root / "tiny", window=4096)
        server, tools = self.root / SERVER, self.root / "tools.json"
        shutil.copyfile(HERE.parent / SERVER, server)
        tools.write_text(json.dumps(TOOLS))
        self.paths.daemon_file.write_text(
            DAEMON.format(
                model=model,
                port=free_port(),
                days=self.days,
                python=sys.executable,
                server=server,
                home=self.environment["AGENTD_HOME"],
                tools=tools,
                journal=self.journal,
            )
        )
        for file in (HERE / "agents").iterdir():
            folder = "agents" if file.suffix == ".py" else "baml_src"
            shutil.copyfile(file, self.paths.user / folder / file.name)
        for name in AGENTS:
            self.configure(name)

    def configure(
        self, name: str, description: str = "", words: str = "", *, last: bool = False
    ) -> None:
        """Write an agent's file in one step; other `words` make another prompt of it.

        `last`: no schedule fires any more, so that everything can be answered.
        """
        reads, publish = PIPELINE.get(name, ("", "tick.counted"))
        fires = "" if last else 'schedule = { every = "2s" }'
        text = (MCP_AGENT if name == KEEPER else AGENT).format(
            description=description,
            words=words,
            reads=f'subscribe = ["{reads}"]' if reads else fires,
            watches=f'watch = ["{self.drop}/*.txt"]' if name == TICKER else "",
            drop=self.drop,
            journal=self.journal,
            stock=self.stock,
            publish=publish,
            approve='[approve]\nShip = "ask"' if name == ASKER else "",
            site=self.site,
            net=f'"{self.site}"' if self.site else "",
        )
        half = self.paths.agents_d / f"{name}.new"
        half.write_text(text)
        half.replace(self.paths.agents_d / f"{name}.toml")

    def edit(self, name: str, *, code: bool) -> None:
        """Change an agent's file: its prompt, so that it does not resume, or nothing of that."""
        self._edits += 1
        if code:
            self.configure(name, words=f", {self._edits} times over")
        else:
            self.configure(name, description=f"edit {self._edits}")
