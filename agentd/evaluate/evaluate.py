"""Runs cases with a real model: the agent's real code and loop, on a stage."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from agentd.clock import SystemClock
from agentd.config.agent import AgentConfig
from agentd.context import LogEvent, render
from agentd.errors import AgentdError, CallDeadline, ModelError, ModelUnavailable
from agentd.evaluate.cases import PROJECT, Case, CaseFile, write_project
from agentd.evaluate.score import Score, check_labels, score
from agentd.events import NewEvent
from agentd.llm.decision import LLM, Ask, Decision, Message
from agentd.llm.endpoint import Endpoint
from agentd.models.huggingface import Progress
from agentd.paths import Paths
from agentd.recordings.recording import Root
from agentd.replay.code import Workshop
from agentd.replay.fixture import Pages
from agentd.replay.folders import Places
from agentd.replay.session import Cast, perform

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
    code = setting.workshop.current(file.agent.agent, setting.paths, where)
    with setting.workshop.stage() as stage:
        write_project(file.case[0], stage / "0")  # parameters may have to name a repository
        places = Places([Root(path=PROJECT)], stage)
        union = Cast.of(code, file.agent.agent, file.agent, where, places).union
    for case in file.case:
        check_labels(case, union, where)


def run_case(
    config: AgentConfig, case: Case, setting: Setting, *, fill: float = 0.0, where: str = ""
) -> Score:
    """Run one case with the window filled to a share beforehand, and score it."""
    # What is measured is how a full window does, so nothing is held back for being full.
    limits = config.limits.model_copy(update={"context_share": 1.0 if fill else 0.9})
    config = config.model_copy(update={"limits": limits})
    code = setting.workshop.current(config.agent, setting.paths, where)
    with setting.workshop.stage() as stage:
        write_project(case, stage / "0")
        places = Places([Root(path=PROJECT)], stage)
        cast = Cast.of(code, config.agent, config, where, places)
        told = cast.over(setting.endpoint, agent=f"eval.{config.agent}")
        llm = _Counted(told, _filler(told, fill) if fill else "", setting.call_deadline_s)
        performance = perform(
            cast,
            NewEvent(case.event, case.payload),
            llm,
            stage,
            clock=SystemClock(),
            facts=places.inward(case.facts),
            connect=Pages({}).connect,
        )
    if llm.unavailable is not None:
        raise llm.unavailable
    result = score(case, performance, asked=llm.asked, illegal=llm.illegal)
    return replace(result, seconds=llm.seconds)


def _filler(llm: LLM, share: float) -> str:
    """Return as many neutral events as fill, with the fixed prompt, this share of the window."""
    wanted = int(llm.window() * share) - llm.fixed_tokens()
    each = llm.count("".join(map(_neutral, range(FILL_SAMPLE)))) / FILL_SAMPLE
    return "".join(map(_neutral, range(round(wanted / each))))


def _neutral(number: int) -> str:
    """Return an event that has nothing to do with any case; always the same for a number."""
    payload = {"sensor": f"room {number % 7 + 1}", "reading": 180 + number * 37 % 61, "ok": True}
    return render(LogEvent("sensor.read", START.replace(minute=number % 60), payload, False))


class _Counted:
    """An `LLM` with a filler before the log, which counts what was asked and what was illegal."""

    def __init__(self, llm: LLM, filler: str, call_deadline_s: float) -> None:
        self._llm, self._filler, self._deadline_s = llm, filler, call_deadline_s
        self.asked = self.illegal = 0
        self.seconds = 0.0
        self.unavailable: AgentdError | None = None

    @property
    def names(self) -> frozenset[str]:
        return self._llm.names

    def window(self) -> int:
        return self._llm.window()

    def fixed_tokens(self) -> int:
        return self._llm.fixed_tokens() + (self._llm.count(self._filler) if self._filler else 0)

    def count(self, text: str) -> int:
        return self._llm.count(text)

    def prompt(self, log: str) -> list[Message]:
        return self._llm.prompt(self._filler + log)

    def decide(self, ask: Ask) -> Decision:
        """Ask with the filler before the log."""
        self.asked += 1
        began = time.monotonic()
        try:
            log = self._filler + ask.log
            return self._llm.decide(replace(ask, log=log, deadline_s=self._deadline_s))
        except (ModelUnavailable, CallDeadline) as error:  # nothing was answered at all
            self.asked -= 1
            self.unavailable = error
            raise
        except ModelError:
            self.illegal += 1
            raise
        finally:
            self.seconds += time.monotonic() - began

    def restore(self, raw: str) -> Decision:
        return self._llm.restore(raw)

    def close(self) -> None:
        self._llm.close()
