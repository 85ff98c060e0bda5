"""A turn beside other people's libraries: without what the server itself takes.

All do the same: seven files are read, one a turn, then the task is done. Each side is a process of
its own in an environment of its own, asks the same server in the same run, and takes its sessions
in turns with the others. What the server itself takes for a call is not counted; what a side needs
to send it, to read it and to go on is."""

import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.environments import NotHere, python_with
from tests.bench.home import ROOT, Home
from tests.bench.table import Figure

ROUNDS, ROUNDS_QUICK = 40, 5
AGENTD = "agentd"
VERSIONS = {
    "langchain-openai": "1.7.4",
    "langgraph": "1.2.22",
    "langgraph-checkpoint-sqlite": "3.1.2",
    "openai": "3.51.0",
    "pydantic-ai-slim": "2.68.0",
    "smolagents": "1.26.0",
}
IN_MEMORY = "in memory: nothing outlives its process"


@dataclass(frozen=True)
class Peer:
    """A side: what it is, what is installed for it, and what it leaves out that agentd does."""

    title: str
    script: str
    packages: tuple[str, ...]  # the first is the one that is measured
    note: str
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The title, with the version."""
        return " ".join([self.title, *(VERSIONS[package] for package in self.packages[:1])])

    def python(self) -> Path:
        """Return a Python that has the packages. Raises NotHere."""
        return python_with(*(f"{package}=={VERSIONS[package]}" for package in self.packages))


PEERS = (
    Peer("http.client in a bare loop", "run_bare", (), f"{IN_MEMORY}, nothing is checked"),
    Peer("a bare loop with openai", "run_openai", ("openai",), f"{IN_MEMORY}, nothing is checked"),
    Peer(
        "pydantic-ai",
        "run_pydantic_ai",
        ("pydantic-ai-slim", "openai"),
        f"{IN_MEMORY}; it checks arguments",
    ),
    Peer(
        "langgraph",
        "run_langgraph",
        ("langgraph", "langchain-openai", "openai"),
        f"{IN_MEMORY}; it checks arguments",
    ),
    Peer(
        "langgraph with checkpoints in SQLite,",
        "run_langgraph",
        ("langgraph", "langgraph-checkpoint-sqlite", "langchain-openai", "openai"),
        "it keeps each step; no queue of events, no care that an effect happens once",
        ("--checkpoints",),
    ),
    Peer("smolagents", "run_smolagents", ("smolagents", "openai"), f"{IN_MEMORY}; its log is off"),
)


class Side:
    """A side's process, once it has run a first session. Raises NotHere: it cannot."""

    def __init__(self, stack: ExitStack, url: str, python: Path, script: str, *words: str) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(
                [str(python), "-m", f"tests.bench.peers.{script}", url, *words],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._process.kill)
        self._line()

    def session_ms(self) -> float:
        """Run one session; return its milliseconds a turn beyond the server's own."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().strip().splitlines()
            raise NotHere(said[-1] if said else "it ended without a word")
        return line


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield agentd's turn beside each of the others'."""
    home.admit(["plain"])
    client = home.paths.versions / "plain" / home.hashes["plain"] / "baml_client"
    absent: dict[Peer, str] = {}
    sides: dict[str, Side] = {}
    times: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        url = _serve(stack)
        words = (str(client), str(home.root))
        sides[AGENTD] = Side(stack, url, Path(sys.executable), "run_agentd", *words)
        for peer in PEERS:
            try:
                sides[peer.name] = Side(stack, url, peer.python(), peer.script, *peer.words)
            except NotHere as error:
                absent[peer] = str(error)
        for _ in range(ROUNDS_QUICK if quick else ROUNDS):
            for name, side in sides.items():
                times[name].append(side.session_ms())
    for peer in PEERS:
        there = peer not in absent
        yield Figure(
            f"peers: a turn beside {peer.name}",
            statistics.median(times[AGENTD]),
            "ms",
            statistics.median(times[peer.name]) if there else None,
            note=peer.note if there else f"it does not run here: {absent[peer]}",
        )


def _serve(stack: ExitStack) -> str:
    server = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.peers.chat_server"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(server.kill)
    assert server.stdout is not None
    return server.stdout.readline().strip()
