"""Runs one agent on one event, for a test: its real module, prompt, tools, bus and loop."""

import atexit
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from agentd.agent import Scores
from agentd.clock import Clock
from agentd.config.agent import validate_agent
from agentd.config.toml import parse_toml, read_toml
from agentd.errors import ModelError, Stopped, ToolError
from agentd.events import NewEvent
from agentd.llm.address import Address
from agentd.llm.decision import LLM, Ask, Candidates, Decision, Message, Terms, Usage, with_log
from agentd.llm.endpoint import Endpoint
from agentd.llm.union import Malformed
from agentd.paths import discover
from agentd.recordings.recording import Page
from agentd.recordings.recording_file import load
from agentd.replay.code import Workshop
from agentd.replay.fixture import Pages
from agentd.replay.folder_map import FolderMap
from agentd.replay.loaded import FixedPromptLLM, LoadedAgent
from agentd.replay.offline import offline
from agentd.replay.single_run import Approver, Performance, run_event
from agentd.sessions.steps import StepKind
from agentd.states import OFFSETS
from agentd.testing.fake_server import FakeModelServer
from agentd.testing.random_model import RandomModel
from agentd.testing.scripted import WINDOW, LabelScript, ScoreScript, count, scripted_scores
from agentd.testing.waiting import ManualClock
from agentd.tools.base import Output
from agentd.tools.toolbox import Toolbox
from agentd.worker.runner import calibration_of

# One decision: ("ReadFile", {"path": "a"}), an answer's text or JSON, or an error to raise.
# A pair may have its labels' log-probabilities as a third: {"kind": {"bug": -0.1, "docs": -2.4}}.
AnyAnswer = (
    tuple[str, Mapping[str, Any]]
    | tuple[str, Mapping[str, Any], LabelScript]
    | Mapping[str, Any]
    | str
    | Exception
)
Model = Iterable[AnyAnswer] | Callable[[str], AnyAnswer] | RandomModel | FakeModelServer

_APPROVERS: Mapping[str, Approver] = {"allow": lambda *_: True, "deny": lambda *_: False}

default_home: Path | None = None  # set by the pytest plugin; None: the working folder

CALL_DEADLINE_S = 10.0  # for one answer of the model


def run_agent(
    agent: str,
    event: NewEvent,
    model: Model,
    *,
    name: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    pages: Mapping[str, str] | None = None,
    programs: Mapping[str, str | tuple[int, str]] | None = None,
    answers: Sequence[Any] = (),
    approve: Literal["allow", "deny"] | Approver | None = None,
    home: str | Path | None = None,
    window: int = WINDOW,
    clock: Clock | None = None,
    call_deadline_s: float = CALL_DEADLINE_S,
    scores: ScoreScript | None = None,
) -> Performance:
    """Let `agent` answer `event`, with `model` in the model's place, and return how it went.

    `agent` is a module below `home`/agents, or one that agentd ships. The default home is that of
    the pytest plugin; without it, the working folder.
    `config` is its TOML file, or that file's content as text or as a table, without `agent`.
    `model` is a list of decisions, a function of the log, a `RandomModel`, or a `FakeModelServer`
    (then over HTTP). `facts` is what it remembers; `pages` is the whole web, by URL; `programs` is
    what all programs of `RunCommand` say, by command line: output, or exit code and output; none
    runs for real. `answers` come from a person. `approve` is a person's yes or no to what the agent
    has to ask for: to all of it, or `f(tool, args)` says True, False or why not; without it the
    session ends parked. `scores` is what `kit.score` gives for a head and an item.
    A server that does not answer, or is full, for `call_deadline_s` fails the session. There is no
    network.

    Raises:
        ConfigError: the configuration does not fit the agent.
        RecordingError: there is no such agent.
    """
    where, given = _configuration(config, f"config of {agent}")
    given = {"done": "The test is satisfied.", **given, "agent": agent}
    settings = validate_agent(given, Path(where))
    workshop = _workshop()
    paths = discover({"AGENTD_HOME": str(Path(home or default_home or "").resolve())})
    code = workshop.current(agent, paths, f"run_agent({agent!r})", settings)
    web = Pages({url: Page(url, text) for url, text in (pages or {}).items()})
    says = partial(_program, programs or {})
    clock = clock or ManualClock()
    with workshop.empty_folder() as folder, offline(loopback=isinstance(model, FakeModelServer)):
        own = folder / "own"
        own.mkdir()
        permissions = settings.permissions
        tools = Toolbox(permissions, own=str(own), connect=web.connect, programs=says, clock=clock)
        here = FolderMap([], Path())
        loaded = LoadedAgent.of(code, name or agent, settings, where, tools=tools, folders=here)
        return run_event(
            loaded,
            event,
            _llm(model, loaded, window, call_deadline_s, scores),
            folder,
            clock=clock,
            facts=facts,
            answers=answers,
            approve=_APPROVERS[approve] if isinstance(approve, str) else approve,
        )


def recorded(path: str | Path) -> list[str]:
    """Return the answers of a recording's file, to be given to `run_agent` in a model's place.

    Raises:
        RecordingError: it cannot be read.
    """
    return [step.raw or "" for step in load(Path(path)).steps if step.kind is StepKind.DECISION]


def _configuration(
    config: str | Path | Mapping[str, Any] | None, of: str
) -> tuple[str, dict[str, Any]]:
    """Return what stands in errors for a configuration, and its table.

    Text is a file's path where it is one line that ends in .toml or names a file; else content.
    """
    if config is None or isinstance(config, Mapping):
        return of, dict(config or {})
    if isinstance(config, str) and not _is_path(config):
        return of, parse_toml(config.encode("utf-8", "surrogatepass"), of)
    return str(config), read_toml(Path(config))


def _is_path(text: str) -> bool:
    try:
        return "\n" not in text and (text.endswith(".toml") or Path(text).is_file())
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _program(known: Mapping[str, str | tuple[int, str]], argv: Sequence[str]) -> Output:
    line = shlex.join(argv)
    if line not in known:
        raise ToolError(f"`{line}` is not among the programs of this test, and does not run")
    said = known[line]
    code, text = (0, said) if isinstance(said, str) else said
    return Output(code, text.encode(), 0)


@cache
def _workshop() -> Workshop:
    """Return this process's one workshop: an agent's prompts are compiled once."""
    workshop = Workshop()
    atexit.register(workshop.close)
    return workshop


def _llm(
    model: Model, loaded: LoadedAgent, window: int, wait_s: float, scores: ScoreScript | None
) -> LLM:
    if not isinstance(model, FakeModelServer):
        return UnionLLM(loaded, model, window=window, scores=scores)
    address = Address(model.url, model.model, model.token)
    endpoint = Endpoint(lambda: address, own=True, queue_wait_s=wait_s)
    return FixedPromptLLM(loaded, endpoint, wait_s)


class UnionLLM:
    """An `LLM` in this process that answers for an agent's real union: its schema, its parser.

    An answer that the union or the turn does not allow is an AssertionError: a mask could not have
    produced it. `asked` keeps each call's log and what it allowed.
    """

    def __init__(
        self,
        loaded: LoadedAgent,
        model: Iterable[AnyAnswer] | Callable[[str], AnyAnswer] | RandomModel,
        *,
        window: int = WINDOW,
        scores: ScoreScript | None = None,
    ) -> None:
        self._loaded, self._scores = loaded, scores
        self._calibration = calibration_of(loaded.version, loaded.union)
        self._model = model if isinstance(model, RandomModel) or callable(model) else iter(model)
        self._window = window
        self._closed = False
        self.asked: list[tuple[str, frozenset[str] | None]] = []

    @property
    def names(self) -> frozenset[str]:
        """The classes of the union."""
        return frozenset(self._loaded.union.members)

    def window(self) -> int:
        """Return the tokens of the pretended window."""
        return self._window

    def fixed_tokens(self) -> int:
        """Return the pretended tokens of the instructions."""
        return sum(count(message["content"]) for message in self._loaded.messages)

    def count(self, text: str, within: int = 0) -> int:
        """Return a quarter of the bytes."""
        return count(text)

    def prompt(self, log: str) -> list[Message]:
        """Return the real messages."""
        return with_log(self._loaded.messages, log)

    def decide(self, ask: Ask) -> Decision:
        """Return the next answer as a decision, or raise its error."""
        if self._closed:
            raise Stopped("the model was closed")
        self.asked.append((ask.log, ask.allowed))
        names = ask.among(self.names)
        raw, labels = self._answer(ask, names)
        try:
            return self._decision(raw, names, labels, ask.candidates)
        except Malformed as error:
            raise AssertionError(
                f"the model answered {raw}, but only {sorted(names)} may be: {error}"
            ) from error

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Return what `scores` gives for each head and item."""
        return scripted_scores(heads, items, self._scores)

    def restore(self, raw: str) -> Decision:
        """Return a recorded decision from its text."""
        return self._decision(raw, self.names, {})

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    def _answer(self, ask: Ask, names: frozenset[str]) -> tuple[str, LabelScript]:
        union = self._loaded.union
        labels: LabelScript = {}
        if (certain := union.certain(names, ask.candidates)) is not None:
            return certain, labels
        if isinstance(self._model, RandomModel):
            return self._model.answer(union.schema(names, ask.candidates)), labels
        item = self._model(ask.log) if callable(self._model) else next(self._model, None)
        if item is None:
            raise ModelError("the script has no further answer", hint="script one more decision")
        if isinstance(item, Exception):
            raise item
        if isinstance(item, tuple):
            name, args, *told = item
            labels = told[0] if told else {}
            if name not in union.members:
                raise AssertionError(f"the model answered {name}, but only {sorted(names)} may be")
            item = {"tool": union.tool(name), **args}
        return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False), labels

    def _decision(
        self,
        raw: str,
        names: frozenset[str],
        labels: LabelScript,
        candidates: Candidates | None = None,
    ) -> Decision:
        name, args, value = self._loaded.union.parse(raw, names, candidates)
        known = {
            key: self._calibration.weighed(f"{name}.{key}", logprobs, {}, OFFSETS)
            for key, logprobs in labels.items()
        }
        usage = Usage(completion_tokens=count(raw))
        return Decision(name, args, value, raw, usage=usage, labels=known)
