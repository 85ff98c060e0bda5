"""A home whose page is looked at: a real daemon with agents of each kind, and a model's double."""

import json
from pathlib import Path
from typing import Any

from agentd.testing import Request
from tests.commandline import agentd, write_agent
from tests.livehome import Home
from tests.ports import free_port

# Written by others, it tries to be more than text: markup, a link, an image, a template, marks that
# turn the direction of what follows, and what drives a terminal. `pwned` is what it would leave.
HOSTILE = (
    "Hi</textarea></pre></script><script>pwned = 1</script><img src=x onerror='pwned = 1'>"
    "\"><svg onload='pwned = 1'></svg><style>body { display: none }</style>"
    "<a href='javascript:pwned = 1'>a</a> [b](javascript:pwned=1) [c](data:text/html,pwned)"
    " ![d](http://127.0.0.1:9/d.png) <http://127.0.0.1:9/e> {{ 7 * 191 }} {% raw %}"
    " &lt;b&gt; \u202egnp.exe \x1b[2J\n# Head\n* item <iframe srcdoc='<script>pwned = 1</script>'>"
)
SHORT = HOSTILE[:200]  # of the model: a question may be that long
QUOTED = json.dumps(HOSTILE.replace("\x1b", ""))  # as TOML has it
AGENTS = {
    "hello": f"""agent = "task"
done = {QUOTED}
description = {QUOTED}
subscribe = ["note.added"]
schedule = {{ every = "24h" }}
missed = "skip"
[params]
instructions = "Greet the person in the note."
publish = "greeting.written"
""",
    "sorter": """agent = "task"
done = "Each line is sorted."
subscribe = ["lines.found"]
[params]
instructions = "Sort the line."
each = "event.lines"
publish = "lines.sorted"
title = "{count} lines, {kind=task} tasks: {event.from}"
[result]
line = { from = "name" }
kind = { labels = ["task", "idea"] }
colour = { labels = ["red", "blue", "green", "pink", "grey", "black", "white", "brown", "gold"] }
""",
    "writer": """agent = "task"
done = "The note is written down."
subscribe = ["note.written"]
[params]
instructions = "Write the note into a.txt."
tools = ["WriteFile"]
[permissions]
write = ["FOLDER"]
""",
    "asker": """agent = "task"
done = "The person said which."
subscribe = ["doubt.risen"]
[params]
instructions = "Ask the person."
tools = ["AskPerson"]
publish = "doubt.settled"
""",
    "reader": """agent = "task"
done = "The file is read."
subscribe = ["file.named"]
[params]
instructions = "Say what is in the file."
first = [{ ReadFile = "{path}" }]
each = "ReadFile.text"
publish = "file.read"
title = "{count} lines read"
[result]
line = { from = "name" }
[limits]
attempts = 1
[permissions]
read = ["FOLDER"]
""",
}
DEADLINE_S = 60.0


class PageHome(Home):
    """Five agents: hello greets, sorter labels, writer wants a yes, asker asks, reader can fail.

    The model says `HOSTILE`, or its beginning, wherever it may say something.
    """

    agents = tuple(AGENTS)

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder = root / "notes"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"

    def drop(self) -> None:
        for name, text in AGENTS.items():
            write_agent(self.root, name, text.replace("FOLDER", str(self.folder)))

    def configure(self) -> None:
        super().configure()
        with self.paths.daemon_file.open("a") as file:
            file.write(f"[ui]\nport = {self.port}\n")

    def link(self) -> str:
        """Return a link that opens the page, once."""
        done = agentd(self.root, "ui", "--print")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _answer(self, request: Request) -> Any:
        said = str(request.body["messages"])
        assert self.gate.wait(DEADLINE_S)
        schema = json.dumps(request.body.get("response_format", {}))
        if "Sort the line" in said:
            return {"tool": "row", "kind": "idea" if "game" in said else "task", "colour": "red"}
        if (
            "Write the note" in said
            and '"write_file"' in schema
            and 'type="write_file"' not in said
        ):
            return {"tool": "write_file", "path": "a.txt", "text": HOSTILE}
        if (
            "Ask the person" in said
            and '"ask_person"' in schema
            and 'type="ask_person"' not in said
        ):
            return {"tool": "ask_person", "question": SHORT}
        return {"tool": "done", "result": SHORT}

    def publish(self, kind: str, **payload: Any) -> int:
        """Send an event as a person does; return its id."""
        done = agentd(self.root, "send", kind, json.dumps(payload))
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    def session(self, event: int, *states: str) -> int:
        """Wait until an event's session is in one of these states; return the session."""
        among = ", ".join(f"'{state}'" for state in states)
        query = f"SELECT id FROM sessions WHERE event_id = {event} AND state IN ({among})"
        return int(self.until(lambda: self.value(query), f"the session of event {event}: {among}"))

    def at_rest(self, session: int) -> bool:
        return bool(self.value(f"SELECT state FROM sessions WHERE id = {session}") == "ended")

    def value(self, query: str) -> Any:
        """The one value that a query finds; None for no row."""
        rows = self.rows(query)
        return rows[0][0] if rows else None
