"""A real supervisor with small real children, for tests: run as a script, or imported.

What a fake worker does stands in its configuration file: `does = "idle"`. The model server and the
admission are fakes as well; supervisor, processes, signals, bus and files are the real ones.
"""

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from agentd.admission.precheck import Precheck
from agentd.config.agent import Permissions, check_agent_name, load_agent
from agentd.config.daemon import DaemonConfig, ModelConfig
from agentd.config.last_good import effective_config
from agentd.config.toml import read_toml
from agentd.errors import AgentdError, ConfigError, NotRunning, StorageError
from agentd.paths import Paths, discover
from agentd.process import crash
from agentd.process.child import child_side
from agentd.process.fork_server import serve_forks
from agentd.process.heart import STOPPING, Heart
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink
from agentd.process.until import until
from agentd.supervisor.client import query
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.remote import remotes_of
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox
from agentd.whole import write_whole

FILE = Path(__file__).resolve()
LOOK_VARIABLE = "TEST_LOOK_S"  # how often the supervisor looks at its database
IDLE_VARIABLE = "TEST_IDLE_S"  # for how long nobody needs the fetcher, or looks at the page
FORKS_VARIABLE = "TEST_FORKS"  # workers are forked, by a server that also imports this, if not ""
READY_VARIABLE = "TEST_READY_S"  # for so long a worker waits for the server that is to fork it
PARKED_VARIABLE = "TEST_PARKED_S"  # of the fork server, until it is tried again
STOP_VARIABLE = "TEST_STOP_S"  # for so long workers may take to stop, whatever agentd.toml grants
PORT_VARIABLE = "TEST_MODEL_PORT"  # the model server's default; the real one may be anybody's
DEADLINE_S = 20.0  # for anything that a test waits for; far above what it takes
QUICK = (
    "[supervisor]\nbackoff_first = '50ms'\nbackoff_max = '100ms'\nstop_grace = '1s'\ncrashes = 3\n"
)


def wait_for(condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
    """Return what `condition` returns once that is true; fail after the deadline."""
    until = time.monotonic() + deadline_s
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < until, f"waited in vain: {what}"
        pause.wait(0.01)
    return found


def state(pid: int) -> str:
    """The letter that ps shows: R running, S sleeping, T stopped, Z zombie; "" for no process."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1]


def threads(pid: int) -> list[str]:
    """The letters of all its threads; of the process where there is no telling (not on Linux)."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.exists():
        return [state(pid)]
    stats = []
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            stats.append((task / "stat").read_text())
    # The state stands behind the name, which may hold anything.
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return state(pid) not in ("", "Z")


def said_by(paths: Paths) -> dict[str, Any]:
    """What a home's daemon says of itself, {} while there is none; a busy one is asked again."""
    for _ in until(DEADLINE_S, 0):
        with contextlib.suppress(StorageError):  # it did not answer in time
            try:
                return query(paths)
            except NotRunning:
                break
    return {}


def whole_lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; the last one may be being written just now."""
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]]


def suspend(pid: int) -> None:
    """SIGSTOP a process and wait until all its threads stand still, which takes them a moment."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: set(threads(pid)) == {"T"}, "it stands still")


def remove_sockets(paths: Paths) -> None:
    """Remove what a killed daemon, or a worker without one, leaves in /tmp."""
    if paths.sockets_apart:
        shutil.rmtree(paths.sockets, ignore_errors=True)


class Daemon:
    """A supervisor process in a home of its own."""

    def __init__(self, home: Path, environment: dict[str, str] | None = None) -> None:
        self.home = home
        self.environment = {**os.environ, "AGENTD_HOME": str(home), **(environment or {})}
        self.paths: Paths = discover({"AGENTD_HOME": str(home)})
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, wait: bool = True) -> "Daemon":
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, str(FILE), "run"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # without a terminal: SIGHUP is then a reload
        )
        if wait:
            wait_for(lambda: self.pid == self.status().get("pid"), "the supervisor answers")
        return self

    def start_and_end_a_child(self) -> None:
        """Start a process such as its children are, with all that they import; wait for its end."""
        child = [sys.executable, str(FILE), "admission", "of nobody"]
        subprocess.run(child, env=self.environment, capture_output=True, check=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """What it says of itself, {} while it is not there yet."""
        if not (found := said_by(self.paths)):
            assert self.process is not None
            assert self.process.poll() is None, self.process.communicate()
        return found

    def ui(self) -> dict[str, Any]:
        """What status says of the page; {} for none."""
        return self.status().get("ui") or {}

    def agent(self, name: str) -> dict[str, Any]:
        agents = self.status().get("agents", [])
        return next((agent for agent in agents if agent["name"] == name), {})

    def wait_model(self) -> dict[str, Any]:
        """Wait until the model server runs; return what status says of it."""

        def reached() -> dict[str, Any] | None:
            model: dict[str, Any] = self.status().get("model", {})
            return model if model.get("state") == "RUNNING" else None

        found: dict[str, Any] = wait_for(reached, "the model server runs")
        return found

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        """Wait until an agent is in `state`; return what status says of it."""

        def reached() -> dict[str, Any] | None:
            agent = self.agent(name)
            return agent if agent.get("state") == state and not agent["stopping"] else None

        try:
            found: dict[str, Any] = wait_for(reached, f"{name} {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.agent(name)}") from error
        return found

    def drop(self, name: str, does: str = "idle", more: str = "") -> None:
        """Write an agent's file the way editors do: beside it, then renamed over it."""
        self.paths.agents_d.mkdir(parents=True, exist_ok=True)
        path = self.paths.agents_d / f"{name}.toml"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(f'agent = "{name}"\ndoes = "{does}"\n{more}')
        temporary.replace(path)

    def call(self, name: str, tool: str, deadline_s: float = DEADLINE_S, **args: Any) -> Path:
        """Let a worker that does "call" call its hands, or the fetcher; or a tool of the worker's.

        Returns where the answer will stand.
        """
        folder = self.paths.data / f"{name}.calls"
        folder.mkdir(exist_ok=True)
        number = len(list(folder.iterdir()))
        call: dict[str, Any] = {"name": tool, "args": args, "deadline_s": deadline_s}
        call["idempotent"] = tool != "RunCommand"
        write_whole(folder / f"{number}.call", json.dumps(call))
        return folder / f"{number}.answer"

    def called(self, name: str, tool: str, **args: Any) -> dict[str, Any]:
        """Return what its hands answered."""
        answer = self.call(name, tool, **args)
        found: dict[str, Any] = json.loads(wait_for(lambda: answer.exists() and answer.read_text()))
        return found

    def configure(self, text: str = QUICK) -> None:
        """Write agentd.toml in one step: half of it, or nothing, would be settings as well."""
        self.paths.config.mkdir(parents=True, exist_ok=True)
        write_whole(self.paths.daemon_file, text)

    def stop(self) -> int:
        """Stop it by SIGTERM and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=DEADLINE_S)
        remove_sockets(self.paths)

    def log(self, event: str, name: str = "agentd") -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [entry for entry in self.lines(name) if entry["event"] == event]

    def lines(self, name: str = "agentd") -> list[dict[str, Any]]:
        """Return all whole lines of a log."""
        path = self.paths.log(name)
        return whole_lines(path) if path.exists() else []

    def events(self, event_type: str) -> list[dict[str, Any]]:
        """Return the payloads of one type of event, by way of SQL as anybody would."""
        with contextlib.closing(apsw.Connection(str(self.paths.database))) as db:
            db.set_busy_timeout(10_000)
            rows = db.execute(
                "SELECT payload FROM outbox WHERE event_type = ? ORDER BY id", (event_type,)
            )
            return [json.loads(payload) for (payload,) in rows]


@contextlib.contextmanager
def daemon(home: Path, environment: dict[str, str] | None = None) -> Iterator[Daemon]:
    """A supervisor that is gone when the test is."""
    one = Daemon(home, environment)
    one.configure()
    try:
        yield one
    finally:
        one.end()
        if (log := one.paths.log("agentd")).exists():
            print(log.read_text()[-6000:])  # pytest shows it where the test failed


# --- the children --------------------------------------------------------------------------------


def _run() -> int:
    from agentd.sandbox import level
    from agentd.supervisor import fetcher_host, housekeeping, supervisor, ui_host, worker_forks
    from agentd.supervisor.argv import Commands
    from agentd.supervisor.main import run

    child_side()  # as `agentd run` does, for the demo
    if look_s := os.environ.get(LOOK_VARIABLE):
        housekeeping.ROUND_S = float(look_s)
    if os.environ.get("TEST_NO_SANDBOX"):
        vars(level)["reached"] = lambda: level.Reached("checks", "switched off for a test")
    if idle_s := os.environ.get(IDLE_VARIABLE):
        fetcher_host.IDLE_S = ui_host.IDLE_S = float(idle_s)
    if os.environ.get("TEST_BREAK"):  # a fault that only a bug of ours could be
        housekeeping.Housekeeping._round = _broken  # type: ignore[method-assign, assignment]
    worker_forks.READY_S = float(os.environ.get(READY_VARIABLE, DEADLINE_S))
    if parked_s := os.environ.get(PARKED_VARIABLE):
        worker_forks.PARKED_S = float(parked_s)
    if stop_s := os.environ.get(STOP_VARIABLE):
        supervisor.WORKERS_STOP_S = float(stop_s)
    if port := os.environ.get(PORT_VARIABLE):
        ModelConfig.model_fields["port"].default = int(port)
        ModelConfig.model_rebuild(force=True)
        DaemonConfig.model_rebuild(force=True)
    here, module = [sys.executable, str(FILE)], os.environ.get(FORKS_VARIABLE)
    commands = Commands(
        worker=lambda name, version: [*here, "worker", name, version],
        model_server=lambda fd, config: [*here, "model", str(fd)],
        forks=(lambda: [*here, "forks", module]) if module is not None else None,
        admission=lambda name: [*here, "admission", name],
        precheck=_precheck,
    )
    try:
        run(discover(), commands=commands)
    except AgentdError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


async def _broken(*_: object) -> None:
    raise RuntimeError("broken for a test")


def _precheck(name: str, paths: Paths) -> Precheck:
    """As the real one, but for the keys: what a fake worker does is none of an agent's."""
    path = paths.agents_d / f"{name}.toml"
    try:
        check_agent_name(name, where=str(path))
        enabled = read_toml(path).get("enabled") is not False
    except ConfigError as error:
        return Precheck(problem=error)
    return Precheck(name, enabled)


def _admission(name: str) -> int:
    heart = child_side()
    paths = discover()
    path = paths.agents_d / f"{name}.toml"
    try:
        text = path.read_text()
        table = tomllib.loads(text)
        does = table["does"]
    except (OSError, ValueError, KeyError) as error:
        problem = {"what": f"wrong: {error!r}", "where": str(path), "hint": "correct it"}
        heart.answer({"ok": False, "waiting": False, "error": problem})
        return 78
    if does == "hang the check":
        threading.Event().wait()
    if does == "kill the check":
        os.kill(os.getpid(), signal.SIGSEGV)
    needs = table.get("needs")
    if needs and not (paths.agents / needs).exists():
        problem = {"what": f"{needs} is missing", "where": str(path), "hint": f"write {needs}"}
        heart.answer({"ok": False, "waiting": True, "error": problem})
        return 78
    text += (paths.agents / needs).read_text() if needs else ""
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = paths.versions / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "does").write_text(does)
    permissions = text[text.find("[permissions]") :] if "[permissions]" in text else ""
    watch: list[str] = table.get("watch", [])
    head = f'agent = "x"\ndone = "it was called"\nwatch = {json.dumps(watch)}\n'
    (folder / "agent.toml").write_text(f"{head}{permissions}")
    print("a module may print while it is imported")
    enabled = table.get("enabled", True)
    outcome = {"ok": True, "version": version, "enabled": enabled, "subscribe": []}
    names = {"schedule": table.get("schedule"), "watch": [f"watch {one}" for one in watch]}
    heart.answer({**outcome, "triggers": names, "wakes": {"watch": watch}})
    return 0


def _worker(name: str, version: str) -> int:
    heart = child_side()
    does = (discover().versions / name / version / "does").read_text()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if does == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if does == "break its promise":
        heart.beat(0.1)
        stop.wait()
    if does == "promise little":
        number = 0
        while not stop.wait(0.1):
            number += 1
            heart.beat(0.5, "idle", number=number)
        return 0
    if does == "read agentd.toml":
        try:
            effective_config(discover())
        except ConfigError as error:
            heart.problem(error)
            return error.exit_code
    if does == "wrong":
        heart.problem(ConfigError("params.repo: no such folder", where="x.toml", hint="write it"))
        return 78
    before = crash.of_the_one_before()
    told = [before.pid, before.why] if before else None
    heart.beat(5, "idle", version=version, crashed=told)
    if does == "tell how the one before died":
        print("its last words", flush=True)
    if does == "say half a character":
        heart.problem(ConfigError("half: \ud800"))
        return 78
    if does == "crash":
        print("the last thing it says")
        return 1
    if does.startswith("beat oddly, "):  # an agent's own code finds the pipe and writes into it
        assert heart._fd is not None
        nested = b'{"promise_s": 5, "state": ' + b"[" * 960 + b"]" * 960 + b"}\n"
        odd = b'{"promise_s": ' + b"9" * 400 + b"}\n" + b"[" * 15_000 + b"\n" + nested
        os.write(heart._fd, odd)
        if does.endswith("crash"):
            return 1
        stop.wait()
        return 0
    if does == "fault":
        return 75
    if does == "have children":
        child = subprocess.Popen(["sleep", "600"])
        (discover().data / f"{name}.grandchild").write_text(str(child.pid))
    if does == "call":
        return _call(name, version, heart, stop)
    if does == "flood":
        block = b"x" * 79 + b"\n"
        while not stop.is_set():
            os.write(1, block * 1000)
            heart.beat(5)
    while not stop.wait(1):
        heart.beat(5, version=version, crashed=told)
    heart.beat(5, STOPPING)
    return 0


def _call(name: str, version: str, heart: Heart, stop: threading.Event) -> int:
    """Call hands or fetcher as files in its folder say, and answer each with one beside it."""
    folder, link = discover().data / f"{name}.calls", SupervisorLink.of_environment()
    remotes, cancel = remotes_of(link), Cancel()
    anything = Permissions(read=("x",), write=("x",), net=("x",), run=("x",))  # others check it
    accounts = load_agent(discover().versions / name / version / "agent.toml").accounts

    def secret(text: str) -> str:
        named = text.removeprefix("secret:")
        return str(link.ask({"ask": "secret", "name": named})[0]["value"])

    tools = Toolbox(anything, remotes=remotes, accounts=accounts, secret=secret)

    def pass_on() -> None:
        stop.wait()
        cancel.stop()

    threading.Thread(target=pass_on, daemon=True).start()
    while not stop.wait(0.01):
        heart.beat(5)
        for file in sorted(folder.glob("*.call")):
            call = json.loads(file.read_text())
            file.unlink()
            told = ""
            try:
                tool = REGISTRY.get(call["name"])
                if tool is not None and tool.place == "head":
                    tools.session = SessionView(memory=call["args"].pop("memory", {}))
                    result = tools.call(call["name"], call["args"])
                else:
                    remote = remotes[tool.place if tool else "hands"]
                    result = remote.call(**call, cancel=cancel)
                remember = {"remember": dict(result.remember)} if result.remember else {}
                told = json.dumps({**result.value, **remember})
            except AgentdError as error:
                told = json.dumps({"raised": type(error).__name__, "what": error.what})
            write_whole(file.with_suffix(".answer"), told)
    heart.beat(5, STOPPING)
    return 0


def _model(fd: str) -> int:
    import socket

    heart: Heart = child_side()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    listening = socket.socket(fileno=int(fd))
    assert listening.getsockname()[0] == "127.0.0.1"
    heart.beat(5, "idle")
    while not stop.wait(1):
        heart.beat(5, "idle")
    return 0


def _forks(module: str, _room: str) -> int:
    if module:
        importlib.import_module(module)
    argv = serve_forks()
    return 0 if argv is None else int(ROLES[argv[2]](*argv[3:]))


ROLES: dict[str, Callable[..., int]] = {
    **{"run": _run, "worker": _worker, "model": _model, "admission": _admission},
    "forks": _forks,
}

if __name__ == "__main__":
    sys.exit(ROLES[sys.argv[1]](*sys.argv[2:]))
