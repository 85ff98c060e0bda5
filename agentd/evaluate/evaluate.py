"""Runs cases with a real model: the agent's real code and loop."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentd.clock import SystemClock
from agentd.config.agent import AgentConfig
from agentd.context import LogEvent, render
from agentd.errors import AgentdError, CallDeadline, ModelError, ModelUnavailable
from agentd.evaluate.cases import PROJECT, Case, CaseFile, write_project
from agentd.evaluate.score import Score, check_labels, score
from agentd.events import NewEvent
from agentd.llm.decision import Ask, Decision, Message
from agentd.llm.endpoint import Endpoint
from agentd.models.huggingface import Progress
from agentd.paths import Paths
from agentd.recordings.recording import Root
from agentd.replay.code import Workshop
from agentd.replay.fixture import Pages
from agentd.replay.folder_map import FolderMap
from agentd.replay.loaded import FixedPromptLLM, LoadedAgent
from agentd.replay.single_run import run_event
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.toolbox import Toolbox

START = datetime(2026, 1, 15, 8, 0, tzinfo=UTC)
FILL_SAMPLE = 60  # neutral events that are counted; their numbers repeat


@dataclass(frozen=True)
class EvalRow:
    """How one model did on one agent's cases. `fill` is the share of the window, in per cent."""

    model: str
    agent: str
    mask: bool
    fill: int
    score: Score
    wrong: Sequence[str]  # cases in which something was not as expected

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        return {**vars(self), "score": vars(self.score), "wrong": list(self.wrong)}


@dataclass(frozen=True)
class Setting:
    """What cases are run with."""

    endpoint: Endpoint
    model: str
    paths: Paths
    workshop: Workshop
    call_deadline_s: float


def evaluate(
    files: Mapping[str, CaseFile],
    setting: Setting,
    *,
    mask: bool = True,
    fills: Sequence[int] = (),
    progress: Progress = lambda _done, _total, _label: None,
) -> Iterator[EvalRow]:
    """Yield a row for each agent, first with an empty window and then filled to each share.

    Raises:
        ModelUnavailable: the model server is down.
        CallDeadline: it takes longer for a call than it may.
        ConfigError: a file of cases does not fit its agent.
    """
    for name, file in files.items():
        _check(file, setting, name)
    setting.endpoint.masks = mask
    shares = (0, *fills)
    total = sum(len(file.case) for file in files.values()) * len(shares)
    done = 0
    for name, file in files.items():
        for share in shares:
            result, wrong = Score(), list[str]()
            for case in file.case:
                part = run_case(file.agent, case, setting, fill=share / 100, where=name)
                result += part
                if part.tool < part.tool_of or part.args < part.args_of or not part.ended:
                    wrong.append(case.name)
                done += 1
                progress(done, total, f"{setting.model}, {name}")
            yield EvalRow(setting.model, name, mask, share, result, wrong)


def _check(file: CaseFile, setting: Setting, where: str) -> None:
    with setting.workshop.empty_folder() as folder:
        # Parameters may have to name a repository.
        loaded = _load(file.agent, file.case[0], setting, folder, where)
    for case in file.case:
        check_labels(case, loaded.union, where)


def _load(
    config: AgentConfig, case: Case, setting: Setting, folder: Path, where: str
) -> LoadedAgent:
    """Return the agent with the case's project in this empty folder."""
    write_project(case, folder / "0")
    folders = FolderMap([Root(path=PROJECT)], folder)
    config = folders.config(config)
    code = setting.workshop.current(config.agent, setting.paths, where, config)
    # Nothing is added to the apps of who measures.
    permissions = config.permissions.model_copy(update={"apps": ()})
    tools = Toolbox(permissions, connect=Pages({}).connect)
    return LoadedAgent.of(code, config.agent, config, where, tools=tools, folders=folders)


def run_case(
    config: AgentConfig, case: Case, setting: Setting, *, fill: float = 0.0, where: str = ""
) -> Score:
    """Run one case with the window filled to a share beforehand, and score it."""
    # What is measured is how a full window does, so nothing is held back for being full.
    limits = config.limits.model_copy(update={"context_share": 1.0 if fill else 0.9})
    config = config.model_copy(update={"limits": limits})
    with setting.workshop.empty_folder() as folder:
        loaded = _load(config, case, setting, folder, where)
        llm = _CountingLLM(loaded, setting, fill)
        performance = run_event(
            loaded,
            NewEvent(case.event, case.payload),
            llm,
            folder,
            clock=SystemClock(),
            facts=loaded.folders.as_here(case.facts),
            approve=_approve,
            before=[(e.agent, NewEvent(e.type, e.payload)) for e in case.events],
        )
    if llm.unavailable is not None:
        raise llm.unavailable
    result = score(case, performance, asked=llm.asked, illegal=llm.illegal)
    return replace(result, seconds=llm.seconds)


def _approve(tool: str, args: Mapping[str, Any]) -> bool | str:
    """Allow what changes only the case's own folder."""
    sends = tool in REGISTRY and REGISTRY[tool].effect == "send"
    return "an evaluation sends nothing and runs no programs" if sends else True


def _neutral(number: int) -> str:
    """Return an event that has nothing to do with any case; always the same for a number."""
    payload = {"sensor": f"room {number % 7 + 1}", "reading": 180 + number * 37 % 61, "ok": True}
    return render(LogEvent("sensor.read", START.replace(minute=number % 60), payload, False))


class _CountingLLM(FixedPromptLLM):
    """A model that is asked with neutral events before the log, up to a share of its window.

    It counts what was asked and what was illegal.
    """

    def __init__(self, loaded: LoadedAgent, setting: Setting, share: float) -> None:
        agent = f"eval.{loaded.version.accepted.name}"
        super().__init__(loaded, setting.endpoint, setting.call_deadline_s, agent=agent)
        self.asked = self.illegal = 0
        self.seconds = 0.0
        self.unavailable: AgentdError | None = None
        self._filler = ""
        self._filler = self._neutral_events(share) if share else ""

    def _neutral_events(self, share: float) -> str:
        """Return as many as fill, with the fixed prompt, this share of the window."""
        wanted = int(self.window() * share) - super().fixed_tokens()
        each = self.count("".join(map(_neutral, range(FILL_SAMPLE)))) / FILL_SAMPLE
        return "".join(map(_neutral, range(round(wanted / each))))

    def fixed_tokens(self) -> int:
        """Return the tokens of the prompt without the log, the neutral events included."""
        return super().fixed_tokens() + (self.count(self._filler) if self._filler else 0)

    def prompt(self, log: str) -> list[Message]:
        """Return the messages of a call."""
        return super().prompt(self._filler + log)

    def decide(self, ask: Ask) -> Decision:
        """Ask with the filler before the log, and count the answer."""
        self.asked += 1
        began = time.monotonic()
        try:
            return super().decide(ask)
        except (ModelUnavailable, CallDeadline) as error:  # nothing was answered at all
            self.asked -= 1
            self.unavailable = error
            raise
        except ModelError:
            self.illegal += 1
            raise
        finally:
            self.seconds += time.monotonic() - began
