"""Kills processes of a running pipeline at random instants, and keeps the pipeline going.

Between two kills it waits for progress (or for a process to appear), never for a time. It is the
launchd of this test: a supervisor that is gone is started again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import apsw
import psutil

from agentd.approval.signature import person_key
from agentd.approval.unanswered import give, unanswered
from agentd.bus import Bus
from agentd.errors import AgentdError
from agentd.events import FILE, PERSON, NewEvent
from agentd.states import WorkerState
from agentd.supervisor.client import query
from tests.chaos.home import AGENTS, PIPELINE, PLACED, SERVER, TICKER, Home
from tests.supervised import said_by

PROGRESS_S = 120.0  # without any progress for this long the pipeline counts as stuck
DRAIN_S = 300.0  # for everything to be answered once nobody kills any more
STOPPED_S = 1.0  # a SIGSTOP holds until others made progress, or this long if they cannot
GONE_S = 5.0  # for a killed process to be gone
BACKLOG = 6  # orders under way, so that there is always something to interrupt
MARKS = {
    "agentd.worker": "worker",
    "agentd.worker.forks": "fork server",
    "agentd.hands": "hands",
    "agentd.fetcher": "fetcher",
    "agentd.deliver": "deliver",
    "agentd.model_server": "model",
    "agentd.admission": "admission",
    "agentd.watcher": "watcher",
    "agentd.ui": "page",
    "agentd.mcp": "MCP host",
    "agentd.mcp.launch": "MCP server",
}
# What is hit, by weight; what is not there at the moment is drawn again.
TARGETS = {
    **{"worker": 50, "hands": 16, "supervisor": 9, "model": 7, "child": 9, "admission": 5},
    **{
        "fetcher": 10,
        "deliver": 10,
        "watcher": 10,
        "page": 6,
        "fork server": 12,
        "all": 4,
        "MCP host": 20,
        "MCP server": 24,
    },
}
SIGNALS = {"SIGKILL": 70, "SIGTERM": 14, "SIGSTOP": 16}
# Rows of progress to wait for before the next kill: 0 is a burst.
PAUSES = (0, 0, 0, 1, 1, 2, 3, 6)


class Stuck(AssertionError):
    """Nothing moves any more."""


@dataclass(frozen=True)
class Victim:
    """A process and what it is: worker NAME, model, admission, supervisor, child (of a tool)."""

    process: psutil.Process
    kind: str
    name: str = ""


class Havoc:
    """One run: `kills` signals, then peace, then a stop in order."""

    def __init__(
        self,
        home: Home,
        seed: int,
        *,
        edits: bool = True,
        hang: bool = False,
        tell: Callable[[str], None] = lambda text: None,
        command: list[str] | None = None,
    ) -> None:
        self.home = home
        self.random = random.Random(seed)
        self.edits, self.hang, self.tell = edits, hang, tell
        self.command = command or [sys.executable, "-m", "agentd", "run"]
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self.placed = self.dropped = 0
        self.supervisor: subprocess.Popen[bytes] | None = None
        self._asked: set[int] = set()  # supervisors that were told to stop, or killed
        self._tick = threading.Event()
        self._bus: Bus | None = None

    def run(self, kills: int) -> None:
        """Start, kill, drain, stop.

        Raises:
            Stuck: nothing moves any more.
        """
        try:
            self.keep()
            self.wait_for(self._all_there, "all agents have started once")
            number = 0
            while number < kills:
                number += self._strike()
                self._between()
                if number % 50 == 0:
                    self.tell(f"{number} kills, {self.placed} orders, {self.progress()} rows")
            self.drain()
        finally:
            self.end()

    # --- one kill

    def _strike(self) -> int:
        victims = self.victims()
        names = list(TARGETS)
        target = self.random.choices(names, [TARGETS[name] for name in names])[0]
        chosen = victims if target == "all" else [v for v in victims if v.kind == target]
        if target != "all" and chosen:
            chosen = [self.random.choice(chosen)]
        if not chosen:
            return 0
        names = list(SIGNALS)
        name = self.random.choices(names, [SIGNALS[name] for name in names])[0]
        self.done[f"{name} {target}"] += 1
        if name == "SIGSTOP":
            self._suspend(chosen)
        else:
            self._send(chosen, signal.Signals[name])
        self._check_copies()
        return 1

    def _send(self, victims: list[Victim], number: signal.Signals) -> None:
        for victim in victims:
            if victim.kind == "supervisor" and number != signal.SIGCONT:
                self._asked.add(victim.process.pid)
            with suppress(psutil.NoSuchProcess):
                victim.process.send_signal(number)

    def _suspend(self, victims: list[Victim]) -> None:
        asked = set(self._asked)
        self._send(victims, signal.SIGSTOP)
        self._asked = asked
        if self.hang and self.random.random() < 0.05 and victims[0].kind != "supervisor":
            self.done["left stopped"] += 1
            return  # its supervisor has to find out
        before, until = self.progress(), time.monotonic() + STOPPED_S
        more = self.random.choice((1, 2, 4))
        while self.progress() < before + more and time.monotonic() < until:
            self._pause()
        self._send(victims, signal.SIGCONT)

    def _between(self) -> None:
        """Wait until something has moved, or a killed process is there again."""
        if self.edits and self.random.random() < 0.06:
            name = self.random.choice(AGENTS)
            code = self.random.random() < 0.2
            self.home.edit(name, code=code)
            self.done["edit of a prompt" if code else "edit"] += 1
        self.keep()
        if self.random.random() < 0.15:  # in the middle of its start
            name = self.random.choice([*AGENTS, "model", "mcp.host", "mcp.shelf"])
            before = {v.process.pid for v in self.victims()}
            self.wait_for(
                lambda: any(v.name == name for v in self.victims()), f"{name} is there", step=0.05
            )
            if {v.process.pid for v in self.victims()} != before:
                return
        rows = self.random.choice(PAUSES)
        if rows:
            self.wait_progress(rows)

    # --- what goes on meanwhile

    def keep(self) -> None:
        """Start a supervisor if there is none, and keep orders coming."""
        if self.supervisor is None or self.supervisor.poll() is not None:
            if self.supervisor is not None:
                self._judge(self.supervisor)
            output = (self.home.root / "supervisor.out").open("ab")
            self.supervisor = subprocess.Popen(
                self.command,
                env={**os.environ, **self.home.environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            output.close()
        if self.placed - self._billed() < BACKLOG:
            self._place()
        self._answer()

    def _judge(self, supervisor: "subprocess.Popen[bytes]") -> None:
        """A supervisor ends because it was asked to or killed, and for no other reason."""
        code = supervisor.returncode
        if supervisor.pid not in self._asked or code not in (0, -signal.SIGKILL, -signal.SIGTERM):
            tail = (self.home.root / "supervisor.out").read_text()[-2000:]
            self.problems.append(f"the supervisor ended by itself with {code}: {tail}")

    def _place(self) -> None:
        if self._bus is None:
            with suppress(AgentdError):
                self._bus = Bus(self.home.paths.database, wake=self.home.paths.wake)
        if self._bus is None or len(self._bus.agents.list()) < len(AGENTS):
            return  # an order to an agent that has no lane yet would be nobody's
        self.placed += 1
        target = "intake" if self.placed % 5 == 0 else None
        event = NewEvent(PLACED, {"n": self.placed, "path": []}, target)
        event_id = self._bus.publish(PERSON, event)
        line = {"what": "placed", "n": self.placed, "event": event_id}
        with self.home.journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.placed % 3 == 0:
            self._drop(f"order {self.placed}")

    def _drop(self, text: str) -> None:
        """Drop a file into the watched folder, as a browser does; now and then rename it."""
        self.dropped += 1
        (self.home.drop / "next.part").write_text(text)
        (self.home.drop / "next.part").rename(self.home.drop / f"{text}.txt")
        if self.random.random() < 0.3:
            (self.home.drop / f"{text}.txt").rename(self.home.drop / f"{text} again.txt")

    def _answer(self) -> None:
        """Be the person: allow what waits, now and then twice, as an impatient one does."""
        if self._bus is None:
            return
        with suppress(AgentdError):  # the database is busy; or its agent was faster
            key = person_key(self.home.paths)
            for waits in [one for one in unanswered(self._bus, key) if one.answer is None]:
                for _ in range(self.random.choice((1, 1, 2))):
                    give(self._bus, key, waits.asked.session, "yes")
                    self.done["a person's yes"] += 1

    def wait_progress(self, rows: int) -> None:
        """Wait for `rows` more events and steps.

        Raises:
            Stuck: there are none.
        """
        goal = self.progress() + rows
        self.wait_for(lambda: self.progress() >= goal, f"{rows} rows of progress")

    def wait_for(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        seconds: float = PROGRESS_S,
        step: float = 0,
    ) -> None:
        """Wait for a condition while everything is kept going.

        Raises:
            Stuck: it does not come true.
        """
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise Stuck(f"waited {seconds:.0f} s in vain: {what}\n{self.describe()}")
            self.keep()
            self._pause(step)

    def _pause(self, least: float = 0.0) -> None:
        self._tick.wait(least + self.random.uniform(0.002, 0.03))

    # --- looking

    def victims(self) -> list[Victim]:
        """Return the supervisor, all that lives below it, and workers whose fork server is gone."""
        if self.supervisor is None or self.supervisor.poll() is not None:
            return []
        found = []
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.supervisor.pid)
            found.append(Victim(top, "supervisor"))
            for process in top.children(recursive=True):
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    found.append(_victim(process))
        below = {victim.process.pid for victim in found}
        workers = [victim for victim in self.everywhere() if victim.kind == "worker"]
        return found + [victim for victim in workers if victim.process.pid not in below]

    def _check_copies(self) -> None:
        """Never two of one name: workers, their server, model servers, MCP servers, and so on."""
        until = time.monotonic() + GONE_S
        while twice := [name for name, number in self._copies().items() if number > 1]:
            if time.monotonic() > until:
                self.problems.append(f"two copies of {twice}")
                return
            self._pause()

    def _copies(self) -> Counter[str]:
        return Counter(v.name for v in self.everywhere() if v.name)

    def everywhere(self) -> list[Victim]:
        """Return every living process of this home, also without a supervisor."""
        found = []
        home = self.home.environment["AGENTD_HOME"]
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                victim = _victim(process)
                if victim.kind == "child" or process.environ().get("AGENTD_HOME") != home:
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(victim)
        return found

    def progress(self) -> int:
        """Return how many events and steps there are."""
        return self._number(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)"
            " + (SELECT count(*) FROM steps)"
        )

    def _billed(self) -> int:
        return self._number(
            "SELECT (SELECT count(*) FROM outbox WHERE event_type = 'order.billed')"
            " + (SELECT count(*) FROM dead_letters)"
        )

    def _number(self, query: str) -> int:
        try:
            with closing(apsw.Connection(str(self.home.paths.database))) as db:
                db.set_busy_timeout(30_000)
                for (number,) in db.execute(query):
                    return int(number)
        except (apsw.CantOpenError, apsw.SQLError):
            pass  # it is not there yet
        return 0

    def _all_there(self) -> bool:
        return self._number("SELECT count(DISTINCT agent) FROM sessions") == len(AGENTS)

    def describe(self) -> str:
        """Return what status and logs say, for who has to find out why nothing moves."""
        try:
            document: Any = query(self.home.paths)
            shown = json.dumps(
                {
                    "model": document["model"],
                    "agents": document["agents"],
                    "events": document["events"],
                },
                indent=1,
            )
        except AgentdError as error:
            shown = str(error)
        lines = []
        for path in sorted(self.home.paths.logs.rglob("*.jsonl")):
            lines += [f"--- {path.name}", *path.read_text().splitlines()[-8:]]
        return "\n".join([shown, *lines])

    # --- the end

    def drain(self) -> None:
        """Let everything be answered that was placed.

        Raises:
            Stuck: it is not.
        """
        self.tell("no more kills; waiting for the rest")
        for name in AGENTS:
            self.home.configure(name, description="no more kills", last=True)
        placed, until = self.placed, time.monotonic() + DRAIN_S
        self.done["orders"] = placed
        while not self._rests() or self._billed() < placed or self._open():
            if time.monotonic() > until:
                raise Stuck(f"not drained within {DRAIN_S:.0f} s\n{self.describe()}")
            if self.supervisor is None or self.supervisor.poll() is not None:
                self.keep()
            self._answer()
            self._pause(0.05)

    def _rests(self) -> bool:
        """Whether the ticker runs without its schedule: what fires later would not be answered."""
        return any(
            agent["name"] == TICKER
            and agent["triggers"].get("schedule", "not known") is None
            and agent["state"] == WorkerState.RUNNING
            and not agent["stopping"]
            for agent in said_by(self.home.paths).get("agents", [])
        )

    def _open(self) -> int:
        """Return how many events still wait for an agent, or are being worked on."""
        return self._number(
            "SELECT (SELECT count(*) FROM sessions WHERE state IN ('running', 'parked'))"
            " + (SELECT count(*) FROM outbox WHERE event_type = 'order.billed' AND id >"
            " (SELECT last_seen_id FROM cursors WHERE consumer = 'agentd.deliver/file'))"
            + "".join(
                f" + (SELECT count(*) FROM outbox WHERE event_type = '{reads}' AND target IS NULL"
                f" AND id > (SELECT last_seen_id FROM cursors WHERE consumer = '{name}'))"
                for name, (reads, _) in PIPELINE.items()
            )
            + "".join(
                f" + (SELECT count(*) FROM outbox WHERE target = '{name}'"
                f" AND id > (SELECT last_seen_id FROM cursors WHERE consumer = '{name}/direct'))"
                for name in AGENTS
            )
            + f" + {self.dropped} - (SELECT count(*) FROM outbox WHERE event_type = '{FILE}')"
        )

    def end(self) -> None:
        """Stop in order, and see that nothing is left behind."""
        if self._bus is not None:
            self._bus.close()
            self._bus = None
        if self.supervisor is None:
            return
        if self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGCONT)
            self.supervisor.send_signal(signal.SIGTERM)
            try:
                code = self.supervisor.wait(30)
            except subprocess.TimeoutExpired:
                self.supervisor.kill()
                code = self.supervisor.wait(30)
            if code != 0:
                self.problems.append(f"the supervisor stopped with {code}")
        until = time.monotonic() + GONE_S
        while left := self.everywhere():
            if time.monotonic() > until:
                self.problems.append(f"left behind: {[v.name or v.kind for v in left]}")
                for victim in left:
                    with suppress(psutil.Error):
                        victim.process.kill()
                break
            self._pause()


def _leads(pid: int) -> bool:
    """Whether it leads its process group, as a child of the supervisor does."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False


def _victim(process: psutil.Process) -> Victim:
    words = process.cmdline()
    if words[1:] and words[1].endswith(f"/{SERVER}"):  # what `agentd.mcp.launch` became
        words = ["agentd.mcp.launch"]
    for mark, kind in MARKS.items():
        if mark in words:
            following = words[words.index(mark) + 1 :]
            names = {
                "model": "model",
                "fork server": "agentd.workers",
                "fetcher": "agentd.fetcher",
                "deliver": "agentd.deliver",
                "watcher": "agentd.watcher",
                "page": "agentd.ui",
                "MCP host": "mcp.host",
                # Of the supervisor; one that an admission asks for its tools may be there as well.
                "MCP server": "mcp.shelf" if _leads(process.pid) else "",
                "worker": "".join(following[:1]),
            }
            return Victim(process, kind, names.get(kind, ""))
    return Victim(process, "child")
