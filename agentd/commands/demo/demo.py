"""The demo: the real daemon, model server and agents on a git repository, in a throw-away home."""

import shutil
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.bus import Bus
from agentd.commands.demo.report import Report, gather
from agentd.commands.demo.screen import Screen
from agentd.commands.demo.temporary import (
    Daemon,
    expecting,
    running_daemon,
    temporary_home,
    write_toml,
)
from agentd.commands.model import ask_model_server
from agentd.commands.output import BOLD, ProgressLine, colour, duration, say, say_lines
from agentd.config.daemon import load_daemon
from agentd.errors import AgentdError, ConfigError, ToolError, UsageError
from agentd.events import PERSON, Lane, NewEvent
from agentd.llm.endpoint import Endpoint
from agentd.models import store
from agentd.models.huggingface import folder_bytes
from agentd.paths import Paths, expanded, shipped
from agentd.process.leave import stoppable
from agentd.sessions.trouble import trouble
from agentd.states import Priority, WorkerState
from agentd.supervisor.client import query
from agentd.tools import git

MODEL = "smollm2-135m"
AGENTS = ("repo_fetch", "repo_review")  # the shipped pipeline: the first wakes the second
START_S = 120.0  # for a model to load, or the agents to start
DEADLINE_S = 600.0  # for the agents' work; on 2 slow cores it takes a quarter of it
STATUS_EVERY_S = 1.0
GAVE_UP = (WorkerState.PARKED, WorkerState.INVALID)
FAST_TOKENS_PER_S = 40.0
# A note of 60 letters, one token each, still fits: a cut-off finding would be asked for again.
FINDING_TOKENS = 96
TINY = """The bundled model has 135M parameters: it answers legally, and its words mean little.
A model of 3B to 8B parameters does much better: `agentd demo --model NAME`, see `agentd model -h`.
To let agents work for you: `agentd run`, then edit the files that it writes (`agentd paths`)."""
PROBE = [{"role": "user", "content": "Say yes."}]


@dataclass(frozen=True)
class Scale:
    """How much the agents are asked to do, by how fast the model is."""

    listed: int  # changed files in the event
    reviewed: int  # of them by the model
    reads: int  # of files by the model
    turns: int  # of the review; the last one can only be Done
    result_tokens: int  # of a file's text


# 2 cores without a fast BLAS read 7 tokens/s and write 5: about 450 and 150 tokens in all.
SLOW = Scale(listed=3, reviewed=1, reads=0, turns=3, result_tokens=100)
FAST = Scale(listed=8, reviewed=5, reads=0, turns=12, result_tokens=300)
# A model that a person chose is larger than the bundled one, which labels better without reading.
CHOSEN = Scale(listed=20, reviewed=5, reads=5, turns=16, result_tokens=600)


def demo(repo: Path, *, model: str | None, url: str | None, small: bool, keep: bool) -> None:
    """Run the agents on `repo` until they have nothing left to do, and print what they found.

    `small` does as little as on a slow machine; else the model's measured speed decides.

    Raises:
        UsageError: `repo` is no git repository with a commit, or git is missing.
        AgentdError: a part failed or took too long; the home is kept and named.
    """
    began = time.monotonic()
    repo = check_repository(repo)
    say(colour(f"agentd demo on {repo}", BOLD))
    with stoppable() as leave, temporary_home(keep, leave) as home:
        name = _get_model(model or MODEL, home) if url is None else model or "default"
        write_toml(home.daemon_file, {"model": {"name": name, **({"url": url} if url else {})}})
        with running_daemon(home, leave) as daemon:
            speed = _measure(home, daemon)
            scale = SLOW
            if speed >= FAST_TOKENS_PER_S and not small:
                scale = FAST if name == MODEL else CHOSEN
            files = "1 file" if scale.reviewed == 1 else f"up to {scale.reviewed} files"
            say(f"  the model reads {speed:.0f} tokens/s: it is to review {files}")
            for agent in AGENTS:
                write_toml(home.agents_d / f"{agent}.toml", agent_config(agent, repo, scale))
            report = _follow(home, daemon)
        say()
        say_lines(report.text())
        say(f"the demo took {duration(time.monotonic() - began)} in all")
        if name == MODEL:
            say()
            say_lines(TINY)
        if not report.complete:
            raise AgentdError(
                "not every event was answered", hint="`agentd dead list` in the kept home"
            )


def check_repository(path: Path) -> Path:
    """Return the top of the git repository that holds `path`.

    Raises:
        UsageError: there is none, it is bare or has no commit yet, or git is missing.
    """
    hint = "name one with --repo PATH"
    try:
        # Resolved before the way up: above `../x` is not the folder that one stands in.
        folder = expanded(path).resolve()
        known = folder.is_dir()
    except ConfigError as error:
        raise UsageError(f"cannot be used: {error.what}", where=str(path), hint=hint) from error
    except (OSError, RuntimeError) as error:  # kept out; a loop of links
        problem = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be used: {problem}", where=str(path), hint=hint) from error
    if not known:
        raise UsageError("is not a folder", where=str(folder), hint=hint)
    if shutil.which("git") is None:
        raise UsageError("the demo needs the `git` command", hint="install git")
    for top in (folder, *folder.parents):
        if git.is_repository(top):
            break
    else:
        raise UsageError("is not in a git repository", where=str(folder), hint=hint)
    if not (top / ".git").exists():
        raise UsageError("is a bare repository, without files to read", where=str(top), hint=hint)
    try:
        str(top).encode()
    except UnicodeEncodeError as error:
        raise UsageError("its path is not UTF-8", where=repr(top), hint=hint) from error
    try:
        tip = git.head(top)
    except ToolError as error:  # such as a worktree of a repository that was removed
        raise UsageError(f"git cannot use it: {error.what}", where=str(top), hint=hint) from error
    if tip is None:
        raise UsageError("this git repository has no commit yet", where=str(top), hint=hint)
    return top


def agent_config(name: str, repo: Path, scale: Scale) -> dict[str, Any]:
    """Return a shipped agent's configuration, pointed at `repo` and enabled."""
    path = shipped() / "config" / "agents.d" / f"{name}.toml"
    config: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    config["enabled"] = True
    config.pop("schedule", None)  # the demo asks for one run
    if name == "repo_fetch":
        params = {"repo": str(repo), "max_files": scale.listed, "max_events": 1, "shown": 1}
        limits = {"turns": 3}
        config["permissions"] = {"read": [str(path) for path in git.folders(repo)]}
    else:
        params = {"max_files": scale.reviewed, "max_reads": scale.reads}
        limits = {"turns": scale.turns, "result_tokens": scale.result_tokens}
        limits["decision_tokens"] = FINDING_TOKENS
        config["permissions"] = {"read": [str(repo)]}
    config["params"] = {**config.get("params", {}), **params}
    config["limits"] = {**config.get("limits", {}), **limits}
    return config


def _get_model(name: str, home: Paths) -> str:
    """Fetch and convert the model unless it is there; return the name to configure."""
    progress = ProgressLine(indent="  ")
    try:
        folder = store.pull(name, home.models, progress)
    finally:
        progress.done()
    say(f"  model {name}: {folder_bytes(folder) / 1e6:.0f} MB on disk")
    return name


def _measure(home: Paths, daemon: Daemon) -> float:
    """Wait for the model and return its prefill speed in tokens/s, by a short call."""
    endpoint = Endpoint.discover(home, load_daemon(home.daemon_file).model)
    for _ in expecting(START_S, "the model was not loaded"):
        daemon.check()
        model = query(home)["model"]
        if model["state"] in GAVE_UP or model["problem"]:
            raise AgentdError(f"the model server failed: {model['reason']}")
        if model["external"] or ask_model_server("/ready", home) is not None:
            break
    body = {"messages": PROBE, "max_tokens": 1, "temperature": 0}
    began = time.monotonic()
    answer = endpoint.chat(body, {}, deadline_s=START_S, progress=lambda: None)
    tokens = answer.usage.prompt_tokens or len(PROBE[0]["content"]) / 4
    return float(tokens) / (time.monotonic() - began)


def _follow(home: Paths, daemon: Daemon) -> Report:
    """Ask for a run, print each event as it comes, and report once nothing is left to do."""
    bus = Bus(home.database, wake=home.wake)
    screen = Screen(bus)
    for _ in expecting(START_S, "the agents did not start"):
        daemon.check()
        if all(state == WorkerState.RUNNING for state in _states(home).values()):
            break
    say(f"  running: {', '.join(AGENTS)}")
    say()
    trigger = NewEvent("agent.trigger", {}, target=AGENTS[0])
    bus.publish(PERSON, trigger, priority=Priority.PERSON, system=True)
    looked = time.monotonic()
    for _ in expecting(DEADLINE_S, "the agents did not come to an end"):
        daemon.check()
        screen.update()
        if not _waiting(bus):
            break
        _check_rest(bus)
        if time.monotonic() - looked > STATUS_EVERY_S:
            looked = time.monotonic()
            _states(home)
    screen.update()
    screen.close()
    return gather(bus)


def _states(home: Paths) -> dict[str, str]:
    """Return the agents' states; raise AgentdError for one that was given up."""
    found = {agent["name"]: agent for agent in query(home)["agents"]}
    for name, agent in found.items():
        if agent["state"] in GAVE_UP:
            problem = agent["problem"] or {}
            raise AgentdError(
                f"{name} is {agent['state']}: {problem.get('what') or agent['reason']}",
                where=problem.get("where", ""),
                hint=problem.get("hint", ""),
            )
    return {name: found[name]["state"] if name in found else "" for name in AGENTS}


def _check_rest(bus: Bus) -> None:
    """Raise AgentdError for an agent whose events wait since something around it is wrong."""
    for name in AGENTS:
        found = trouble(bus.db, name)
        if found is not None and found.state is WorkerState.PARKED:
            raise AgentdError(f"not every event was answered: {name} rests: {found.reason}")


def _waiting(bus: Bus) -> int:
    """Count the events that the agents still have to answer.

    An answer's events are written together with its lane's step, so the count never dips to 0
    between two agents.
    """
    rows = [row for row in bus.agents.list() if row.name in AGENTS]
    lanes = [Lane(row.name, direct, row.subscribe) for row in rows for direct in (True, False)]
    return sum(bus.lanes.waiting(lane) for lane in lanes)
