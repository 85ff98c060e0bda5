"""An MCP server of the standard library alone, which can misbehave: `python fake_mcp_server.py`.

Its tools stand in the JSON file of FAKE_TOOLS, where that is given, or at
FAKE_TOOLS_URL. Each does what its name says.
"""

import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path
from threading import Thread
from typing import Any

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
READS = {"readOnlyHint": True}


def tool(name: str, schema: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    closed = {"type": "object", "properties": {}}
    return {"name": name, "description": f"Does {name}.", "inputSchema": schema or closed, **more}


TOOLS = [
    tool("echo", TEXT, annotations=READS),
    tool("take", {"type": "object", "properties": {"a": {}, "b": {}}}),
    tool("env"),
    tool("fail", annotations=READS),
    tool("refuse", annotations=READS),
    tool("image", annotations=READS),
    tool("structured", annotations=READS),
    tool("long", annotations=READS),
    tool("hang", annotations=READS),
    tool("sleep", annotations=READS),
    tool("hold", annotations=READS),
    tool("die", annotations=READS),
    tool("endless", annotations=READS),
    tool("flood", annotations=READS),
    tool("noise", annotations=READS),
    tool("leave", annotations=READS),
    tool("change", annotations=READS),
    tool("open", {"type": "object", "properties": {"path": {"type": "string"}}}),
    tool("make", {"type": "object", "properties": {"path": {"type": "string"}}}),
    tool("connect", annotations=READS),
    tool("odd", annotations=READS),
    tool("deep", annotations=READS),
]
cancelled: set[Any] = set()


def send(document: dict[str, Any]) -> None:
    data = json.dumps({"jsonrpc": "2.0", **document}).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}], **more}


def note(line: str) -> None:
    """Append a line to the file of FAKE_LOG."""
    if file := os.environ.get("FAKE_LOG"):
        with Path(file).open("a") as log:
            log.write(line + "\n")


def call(number: Any, name: str, args: dict[str, Any]) -> dict[str, Any] | None:
    match name:
        case "echo":
            return text(args["text"])
        case "take":
            return text(json.dumps(args, sort_keys=True))
        case "env":
            return text(json.dumps(dict(os.environ)))
        case "fail":
            return text("it cannot be done", isError=True)
        case "image":
            parts = [
                {"type": "text", "text": "see:"},
                {"type": "image", "mimeType": "image/png", "data": "QUJD"},
                {"type": "resource_link", "uri": "file:///x", "name": "x"},
                {"type": "resource", "resource": {"uri": "file:///t", "text": "inside"}},
                {"type": "resource", "resource": {"uri": "file:///b", "blob": "QUJDRA=="}},
            ]
            return {"content": parts}
        case "structured":
            value = {"a": [1, None]}
            return text(json.dumps(value) if args.get("twice") else "", structuredContent=value)
        case "long":
            return text("x" * 100_000)
        case "hang":
            return None
        case "sleep":
            for _ in range(150):
                if number in cancelled:
                    note(f"cancelled {name}")
                    return None
                time.sleep(0.01)
            return text("slept")
        case "hold":  # until somebody writes into the log that it may go on
            while "go on" not in Path(os.environ["FAKE_LOG"]).read_text():
                if number in cancelled:
                    note(f"cancelled {name}")
                    return None
                time.sleep(0.01)
            return text("held")
        case "die":
            print("its last words", file=sys.stderr, flush=True)
            os._exit(3)
        case "endless":
            while True:
                os.write(1, b"x" * 65_536)
        case "flood":
            while True:
                send({"method": "notifications/message", "params": {"level": "info", "data": 1}})
        case "noise":
            os.write(1, b"no JSON\n{}\n[1]\n\n" + b'{"jsonrpc":"2.0","id":77,"result":{}}\n')
            os.write(2, b"e" * 1_000_000)
            send({"id": "s1", "method": "sampling/createMessage", "params": {}})
            send({"id": "s2", "method": "ping"})
            return text("was noisy")
        case "leave":
            if os.fork() == 0:
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                note(f"left {os.getpid()}")
                time.sleep(60)
                os._exit(0)
            return text("left one")
        case "change":
            TOOLS[0]["description"] = "Does another thing."
            send({"method": "notifications/tools/list_changed"})
            return text("changed")
        case "open" | "make":
            try:
                if name == "make":
                    Path(args["path"]).write_text("made")
                    Path(args["path"]).chmod(0o600)
                return text(Path(args["path"]).read_text())
            except OSError as error:
                return text(type(error).__name__, isError=True)
        case "odd":
            return {"content": "no list"}
        case "deep":
            os.write(
                1, b'{"jsonrpc":"2.0","id":%d,"result":{"content":%s}}\n' % (number, b"[" * 9_000)
            )
        case "look" | "book" | "send":  # of the chaos test: there is time to be killed in it
            time.sleep(0.03)
            with Path(os.environ["FAKE_JOURNAL"]).open("a") as journal:
                journal.write(args["line"] + "\n")
            time.sleep(0.03)
            return text("noted")
        case "connect":
            try:
                socket.create_connection(("127.0.0.1", 9), 1)
            except OSError as error:
                return text(type(error).__name__, isError=True)
    return None


def answer(document: dict[str, Any]) -> None:
    number, method, params = document["id"], document["method"], document.get("params", {})
    if method == "initialize":
        result: dict[str, Any] | None = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "fake", "version": "1"},
        }
        note(f"started {os.getpid()}")
    elif method == "tools/list":
        first = int(params.get("cursor", 0))
        result = {"tools": TOOLS[first : first + 9]}
        if first + 9 < len(TOOLS):
            result["nextCursor"] = str(first + 9)
    elif method == "tools/call" and params["name"] != "refuse":
        note(f"called {params['name']}")
        result = call(number, params["name"], params.get("arguments", {}))
        if result is None:
            return
    else:
        send({"id": number, "error": {"code": -32601, "message": f"no {method}"}})
        return
    send({"id": number, "result": result})


def main() -> None:
    if file := os.environ.get("FAKE_TOOLS"):
        TOOLS[:] = json.loads(Path(file).read_text())
    if url := os.environ.get("FAKE_TOOLS_URL"):
        with urllib.request.urlopen(url, timeout=10) as page:
            TOOLS[:] = json.load(page)
    if os.environ.get("FAKE_HANG"):
        time.sleep(60)
    if os.environ.get("FAKE_DOWN"):
        sys.exit("the repository is not there")
    for line in sys.stdin:
        document = json.loads(line)
        if document.get("method") == "notifications/cancelled":
            cancelled.add(document["params"]["requestId"])
        elif "id" in document and "method" in document:
            Thread(target=answer, args=(document,), daemon=True).start()


if __name__ == "__main__":
    main()
