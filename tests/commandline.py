"""Runs `agentd` commands for tests, as a person or a script does: real processes."""

import os
import subprocess
import sys
from pathlib import Path

DEADLINE_S = 30  # of one command


def agentd(
    home: Path, *words: str, stdin: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run one command in `home` and return what it did."""
    return subprocess.run(
        [sys.executable, "-m", "agentd", *words],
        env={**os.environ, "AGENTD_HOME": str(home), **environ},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


HELLO = """agent = "task"
done = "A greeting was written."
subscribe = ["note.*"]
[params]
instructions = "Greet the person in the note."
publish = "greeting.written"
"""


def write_agent(home: Path, name: str, text: str = HELLO) -> Path:
    """Drop an agent's file into the home, as editors do: beside it, then renamed over it."""
    path = home / "config" / "agents.d" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(text)
    return path.with_suffix(".new").rename(path)


def one_decision(function: str, decision: str) -> str:
    """Return the BAML of a union of one decision, which has no fields, and Done."""
    return f"""
class {decision} {{
  tool "{decision.lower()}"
}}

class Done {{
  tool "done"
}}

function {function}(context: string, done: string) -> {decision} | Done {{
  client Local
  prompt #"
    {{{{ _.role("system") }}}}
    {{{{ done }}}}
    {{{{ Decisions() }}}}
    {{{{ _.role("user") }}}}
    {{{{ context }}}}
  "#
}}
"""
