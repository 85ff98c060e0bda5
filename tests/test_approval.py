"""A person's yes: who has to be asked, how a session waits for it, and what an answer comes to."""

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast
from unittest.mock import Mock

import pytest
import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentd.agent import Agent, Kit, NoParams, PlannedCall, Result
from agentd.approval.approval import Policy, policy_of
from agentd.approval.kept import use
from agentd.approval.payloads import without_text
from agentd.approval.signature import KEY, MAC, digest, forged, person_key, signed
from agentd.approval.unanswered import expire, give, looked_up, unanswered
from agentd.bus import Bus
from agentd.config.agent import AgentConfig, Approve, Limits
from agentd.errors import (
    AgentdError,
    ConfigError,
    SessionFailed,
    Stopped,
    StorageError,
    ToolError,
    UsageError,
)
from agentd.events import Event, Lane, NewEvent
from agentd.llm.decision import Choice
from agentd.loop import DENIED, Ending, Loop
from agentd.paths import Paths, discover, private_folder
from agentd.process.supervisor_link import SupervisorLink
from agentd.sessions.session import Dead, Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import StepKind
from agentd.states import DeadReason, SessionState
from agentd.testing import ManualClock, ScriptedLLM
from agentd.tools.base import Grants
from agentd.tools.declared_tools import REGISTRY
from agentd.worker.persons_word import PersonsWord
from agentd.worker.runner import settle

LANE = Lane("worker", False, ("order.placed",))
DIRECT = Lane("worker", True)
HOME_KEY = b"k" * 32
NAMES = ("WriteFile", "ReadFile", "AskPerson", "Done")
ASKS = Policy(asks=frozenset({"WriteFile"}))
WRITE = ("WriteFile", {"path": "a", "text": "one\ntwo"})
DONE: tuple[str, dict[str, Any]] = ("Done", {})
DAY = timedelta(days=1)


# --- which decisions are asked about


def policy(tools: Sequence[str], approve: Mapping[str, Any] | None = None, **more: Any) -> Policy:
    accepts = more.pop("accepts", {})
    table = {"agent": "task", "done": "It is all done.", "approve": approve or {}, **more}
    config = AgentConfig.model_validate(table)
    return policy_of("worker", config, (*tools, "Done"), accepts, REGISTRY, file=Path("w.toml"))


class Kind(Enum):
    A = "a"
    B = "b"


class Forbid(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Typed(Forbid):
    kind: Kind
    size: int
    share: float | None
    place: Literal["here", "there"]
    flags: list[bool]


FILES = {"sandbox": {"head": "files"}, "permissions": {"read": ["/notes"], "write": ["/out"]}}


def test_what_reads_is_done_and_what_sends_asks() -> None:
    """By the tools alone; what changes something asks as well, unless its file allows it."""
    assert policy(["ReadFile", "HttpGet", "AskPerson"]).asks == frozenset()
    assert policy(["WriteFile", "AskPerson"]).asks == {"WriteFile"}
    assert policy(["WriteFile", "AskPerson"], {"WriteFile": "allow"}).asks == frozenset()
    asks = policy(["RunCommand"])
    assert asks.asks == {"RunCommand"} and "RunCommand" in asks.why["RunCommand"]


@pytest.mark.parametrize(
    ("tools", "more", "why"),
    [
        (["WriteFile", "ReadFile"], {}, "ReadFile"),
        (["WriteFile", "HttpGet"], {}, "HttpGet"),
        (["WriteFile", "Summarise"], {}, "Summarise"),
        (["WriteFile"], {"subscribe": ["mail.came"]}, "events mail.came"),
        (["WriteFile"], {"subscribe": ["order.*"], "accepts": {"order.placed": Typed}}, "order.*"),
        (["WriteFile"], FILES, "files, by its own code"),
        (["WriteFile"], {"subscribe": ["agent.crashed"]}, "events agent.crashed"),
        (["WriteFile"], {"subscribe": ["person.asked"]}, "events person.asked"),
    ],
)
def test_who_reads_what_others_wrote_asks(tools: list[str], more: Any, why: str) -> None:
    """Files, pages, own code, free text of events: it may tell the model to do something."""
    found = policy(tools, **more)
    assert found.asks == {"WriteFile"} and why in found.why["WriteFile"]
    with pytest.raises(ConfigError) as error:
        policy(tools, {"WriteFile": "allow"}, **more)
    assert error.value.where == "w.toml: approve.WriteFile"
    assert why in error.value.what and "nobody would look" in error.value.what
    assert (
        'WriteFile = "ask"' in error.value.hint and "i_accept_the_risk = true" in error.value.hint
    )
    risky = {"WriteFile": "allow", "i_accept_the_risk": True}
    assert policy(tools, risky, **more).asks == frozenset()
    assert policy(tools, {"i_accept_the_risk": True}, **more).asks == {"WriteFile"}, (
        "the risk alone allows nothing"
    )


@pytest.mark.parametrize("kind", ["schedule.fired", "order.placed"])
def test_an_event_without_free_text_is_harmless(kind: str) -> None:
    """Numbers and listed texts tell nobody what to do; a schedule's event is our own."""
    harmless = {"subscribe": [kind], "accepts": {"order.placed": Typed}}
    found = policy(["WriteFile"], {"WriteFile": "allow"}, **harmless)
    assert found.asks == frozenset()


def test_own_code_may_read_by_no_decision() -> None:
    """In \"opening\", say: it calls any tool that its permissions leave it."""
    own: dict[str, Any] = {"agent": "own", "permissions": {"read": ["/notes"], "write": ["/notes"]}}
    assert "ReadFile" in policy(["WriteFile"], **own).why["WriteFile"]
    for other in ({"agent": "task"}, {"permissions": {"write": ["/notes"]}}):
        assert "ReadFile" not in policy(["WriteFile"], **own | other).why["WriteFile"]


def test_what_is_denied_is_read_by_nobody() -> None:
    """A tool that the model never gets brings nobody's words."""
    rules = {"ReadFile": "deny", "WriteFile": "allow"}
    assert policy(["WriteFile", "ReadFile"], rules).asks == frozenset()


def test_its_own_folder_needs_no_yes() -> None:
    """By the path's text alone; `..`, another folder and a move out of it ask, as does the file."""
    grants = Grants(write=("/notes",), own="/home/files/worker")
    tools = ("WriteFile", "AppendNote", "MoveFile", "ReadFile")
    config = AgentConfig.model_validate({"agent": "task", "done": "It is all done."})
    for found in (
        policy_of("worker", config, tools, {}, REGISTRY, grants=grants),
        Policy.kept(dict.fromkeys(tools[:3], "ask"), config, grants),  # of a recorded session
    ):
        for path, asks in (
            ("/home/files/worker/a.md", False),
            ("/home/files/worker/../other/a.md", True),
            ("/home/files/worker-2/a.md", True),
            ("/notes/a.md", True),
            ("a.md", True),  # it would be written into /notes
        ):
            for tool in tools[:2]:
                assert found.asks_about(tool, {"path": path, "text": "x"}) is asks, path
            assert found.asks_about("MoveFile", {"path": path, "to": "/home/files/worker"}) is asks
            assert (
                found.asks_about("MoveFile", {"path": "/home/files/worker/b", "to": path}) is asks
            )
        assert not found.asks_about("ReadFile", {"path": "/notes/a.md"})
    alone = policy_of("worker", config, tools, {}, REGISTRY, grants=replace(grants, write=()))
    assert not alone.asks_about("WriteFile", {"path": "a.md"}) and not alone.asks_about("Done", {})
    assert alone.asks_about("WriteFile", {"path": "../a.md"})
    strict = config.model_copy(update={"approve": Approve.model_validate({"WriteFile": "ask"})})
    asked = policy_of("worker", strict, tools, {}, REGISTRY, grants=grants)
    assert asked.asks_about("WriteFile", {"path": "/home/files/worker/a.md", "text": "x"})


def test_the_file_has_the_last_word() -> None:
    """Any decision may be asked about or denied, also one that only reads, and an own one."""
    found = policy(["ReadFile", "Ship", "RunCommand"], {"ReadFile": "ask", "Ship": "deny"})
    assert found.asks == {"ReadFile", "RunCommand"} and found.denied == {"Ship"}
    assert found.verdicts == {"ReadFile": "ask", "RunCommand": "ask", "Ship": "deny"}
    assert found.why["ReadFile"] == '[approve] ReadFile = "ask"'
    assert policy(["ReadFile"], {"expires": "2h"}).expires == timedelta(hours=2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WritFile", 'WritFile is no decision; did you mean "WriteFile"?'),
        ("RunCommand", "RunCommand is a tool that it has not"),
        ("expire", 'expire is no decision; did you mean "expires"?'),
        ("Done", "Done is no decision"),
    ],
)
def test_an_unknown_name_is_an_error(name: str, said: str) -> None:
    """A misspelt one would be a hole."""
    with pytest.raises(ConfigError) as error:
        policy(["WriteFile"], {name: "ask"})
    assert error.value.what == said and error.value.where == f"w.toml: approve.{name}"


class Loose(BaseModel):
    size: int


class Text(Forbid):
    text: str


class Deep(Forbid):
    inner: list[Typed]


class DeepText(Forbid):
    inner: dict[str, int]


class Endless(Forbid):
    size: int
    inner: "Endless | None" = None


class Pair(Forbid):
    pair: tuple[str, int]


class Named(Forbid):
    by_name: dict[Annotated[str, Field(pattern="^x_")], int]


class Anything(Forbid):
    what: Any


@pytest.mark.parametrize(
    ("model", "closed"),
    [
        (Typed, True),
        (Deep, True),
        (Endless, True),
        (Loose, False),  # further properties come as they are, and the model sees them
        (Text, False),
        (DeepText, False),  # names are free text, too
        (Anything, False),
        (Pair, False),
        (Named, False),
    ],
)
def test_free_text_is_found_wherever_it_is(model: type[BaseModel], closed: bool) -> None:
    """In properties that are not declared, in names, in what may be anything."""
    assert without_text(model) is closed


# --- a session that asks


class Worker(Agent[NoParams]):
    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(NoParams(), Kit("worker", "", nothing, {}, None))
        self.did: list[Mapping[str, Any]] = []

    def dispatch(self, decision: Choice) -> Result:
        if decision.name == "AskPerson":
            return Result(decision.args, ask=str(decision.args["question"]))
        self.did.append(decision.args)
        return Result({"did": decision.args["path"]})


class World:
    """A bus, its clock and an agent: `go` runs what its lanes hold, as a worker does."""

    def __init__(self, path: Path, policy: Policy = ASKS) -> None:
        self.path, self.policy = path, policy
        self.clock = ManualClock()
        self.agent = Worker()
        self.llm = ScriptedLLM([], names=NAMES)
        self.open()
        self.bus.accept("worker", "v", subscribe=LANE.subscribe)
        self.bus.publish("person", NewEvent("order.placed", {"n": 1}))

    def open(self) -> None:
        """Begin anew, as another process does."""
        self.bus = Bus(self.path, clock=self.clock)
        self.sessions = Sessions(self.bus, verify=self.verify, jitter=lambda: 0.0)

    def verify(self, event: Event) -> str | None:
        return forged(event.event_type, event.target, event.payload, HOME_KEY)

    def use(self, answer: Event) -> str | None:
        """As a supervisor does, which keeps beside its key what was used."""
        paths = discover({"AGENTD_HOME": str(self.path.parent / "home")})
        private_folder(paths.keys)
        noted = partial(use, paths)
        why: str | None = looked_up(self.bus, HOME_KEY, "worker", answer.id, noted)["forged"]
        return why

    def go(self, *script: Any, version: str = "v1") -> Ending | Dead | Wait | None:
        """Run the next event's session; None: nothing waits."""
        for lane in (DIRECT, LANE):
            event = self.bus.next(lane)
            if event is not None:
                break
        else:
            return None
        begun = self.sessions.begin(lane, event, version, Limits())
        if not isinstance(begun, Session):
            return begun
        self.session = begun
        self.llm = ScriptedLLM(script, names=NAMES)
        loop = Loop(
            begun,
            self.agent,
            self.llm,
            self.sessions.journal,
            idempotent=frozenset({"WriteFile", "ReadFile", "AskPerson"}),
            policy=self.policy,
            call_deadline_s=5,
            log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""]),
            beat=lambda _promise: None,
            use=self.use,
        )
        try:
            ending = loop.run()
        finally:
            self.log = loop.transcript.context.text
        settle(self.sessions.closing, begun, ending)
        return ending

    def say(self, answer: Any, session: int = 1) -> int:
        return give(self.bus, HOME_KEY, session, answer)[1]

    @property
    def steps(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(s.kind.value, s.payload) for s in self.sessions.archive.steps(1)]

    @property
    def state(self) -> SessionState:
        return self.sessions.archive.show(1)[0].state

    def kinds(self) -> list[str]:
        return [step.kind.value for step in self.sessions.archive.steps(1)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "a.db")
    yield world
    world.bus.close()


def test_a_decision_that_asks_parks_with_its_exact_arguments(world: World) -> None:
    """The lane goes on, nothing is done, and the event says all that a person has to know."""
    ending = world.go(WRITE)
    assert isinstance(ending, Ending) and ending.question == "may it do WriteFile?"
    assert world.agent.did == [] and world.bus.next(LANE) is None
    assert world.state is SessionState.PARKED
    (asked,) = world.bus.events.list(event_type="person.asked")
    (waits,) = unanswered(world.bus, HOME_KEY)
    assert asked.agent == "worker" and asked.payload == waits.asked.document()
    assert asked.payload["args"] == WRITE[1] and asked.payload["kind"] == "approval"
    assert waits.asked.expires == waits.asked.since + DAY
    world.bus.publish("person", NewEvent("order.placed", {"n": 2}))
    world.go(DONE)
    assert world.session.id == 2, "it goes on with other events"


def test_a_yes_carries_it_out_once_in_another_process(world: World) -> None:
    """With the arguments that were shown; the steps say what happened, the model sees a result."""
    world.go(WRITE)
    world.open()
    world.clock.advance(60)
    world.say("yes")
    world.clock.advance(60)
    world.go(DONE)
    assert world.agent.did == [WRITE[1]] and world.state is SessionState.ENDED
    stages = ["decision", "asked", "granted", "started", "result", "decision"]
    assert world.kinds() == ["opening", *stages]
    assert world.go() is None
    assert "asked" not in world.log and "granted" not in world.log


def test_what_needs_no_yes_writes_nothing_more(world: World) -> None:
    """Neither a step nor a commit: the decision itself counts as started."""
    world.go(("ReadFile", {"path": "a"}), DONE)
    assert world.kinds() == ["opening", "decision", "result", "decision"]


def test_a_no_is_a_result_with_its_reason(world: World) -> None:
    """The model is told; nothing was done, so a failure later may try the event again."""
    world.go(WRITE)
    world.say("no  not that folder")
    world.go(DONE)
    assert world.agent.did == []
    assert world.steps[3:5] == [
        ("denied", {"why": "not that folder"}),
        ("result", {**WRITE[1], "error": "a person said no: not that folder"}),
    ]
    assert not any(step.had_effect for step in world.sessions.archive.steps(1))
    assert "not that folder" in world.llm.asked[0][0]


def test_the_same_decision_after_a_no_is_not_asked_again(world: World) -> None:
    """It is told by the ladder for repeats; another one is asked about."""
    world.go(WRITE)
    world.say("no")
    other = ("WriteFile", {"path": "b", "text": ""})
    ending = world.go(WRITE, other)
    assert isinstance(ending, Ending) and ending.question is not None
    assert "decided before with the same arguments" in str(world.steps)
    (waits,) = unanswered(world.bus, HOME_KEY)
    assert waits.asked.args == other[1]
    assert len(world.bus.events.list(event_type="person.asked")) == 2


def test_the_same_effect_may_be_allowed_twice(world: World) -> None:
    """A yes is for once: what is decided again afterwards is asked about again."""
    world.go(WRITE)
    world.say("yes")
    world.go(WRITE)
    assert world.agent.did == [WRITE[1]]
    world.say("yes")
    world.go(DONE)
    assert world.agent.did == [WRITE[1]] * 2


def test_a_question_is_answered_the_same_way(world: World) -> None:
    """With any words; its answer is a result, as before."""
    world.go(("AskPerson", {"question": "where?"}))
    (waits,) = unanswered(world.bus, HOME_KEY)
    assert waits.asked.kind == "question" and waits.asked.expires is None
    world.say("no, there")
    world.go(DONE)
    assert world.steps[-2] == ("result", {"answer": "no, there"})


def test_a_question_after_an_approval_is_a_question(world: World) -> None:
    """What was asked before in the same session is past."""
    world.go(WRITE)
    world.say("yes")
    world.go(("AskPerson", {"question": "where?"}))
    (_, asked) = world.bus.events.list(event_type="person.asked")
    assert (asked.payload["kind"], asked.payload["expires"]) == ("question", None)
    world.clock.advance(30 * DAY.total_seconds())
    assert expire(world.bus, HOME_KEY, world.clock.now()) == [], "a question has no such end"
    world.say("there")
    world.go(DONE)
    assert world.state is SessionState.ENDED and ("result", {"answer": "there"}) in world.steps


@pytest.mark.parametrize("change", ["DELETE FROM steps", "UPDATE sessions SET question = NULL"])
def test_a_session_that_asks_nothing_cannot_be_answered(world: World, change: str) -> None:
    """Somebody changed its rows; it is told of, and an answer to what it asked is none."""
    world.go(WRITE)
    world.say("yes")
    world.bus.db.run(change)
    odd: list[str] = []
    assert list(unanswered(world.bus, HOME_KEY, odd=lambda _id, why: odd.append(why))) == []
    assert odd == ["it asks nothing, and nobody can answer it"]
    dead = world.go()
    assert isinstance(dead, Dead) and "session 1 asks nothing" in dead.error
    assert world.agent.did == []


def test_what_is_denied_is_left_out_of_the_mask(tmp_path: Path) -> None:
    """And where an agent bars all else, it is told instead of done."""
    world = World(tmp_path / "a.db", Policy(denied=frozenset({"WriteFile"})))
    world.go(("ReadFile", {"path": "a"}), DONE)
    assert {allowed for _, allowed in world.llm.asked} == {frozenset(NAMES) - {"WriteFile"}}
    world.bus.publish("person", NewEvent("order.placed", {}))
    world.agent.barred = lambda: frozenset(NAMES) - {"WriteFile"}  # type: ignore[method-assign]
    world.go(WRITE, DONE)
    assert world.agent.did == [{"path": "a"}]
    assert world.sessions.archive.steps(2)[2].payload["error"] == DENIED


def test_who_acts_unasked_takes_no_free_text_of_other_agents(tmp_path: Path) -> None:
    """Not even addressed to it; a person's words and declared numbers it takes."""
    wary = Policy(agent="worker", typed=frozenset({"order.counted"}))
    world = World(tmp_path / "a.db", wary)
    world.agent.accepts = {"order.counted": Counted}  # type: ignore[misc]
    told = NewEvent("order.counted", {"n": 1, "kind": "a"}, target="worker")
    world.bus.publish("other", told)
    world.go(DONE)
    world.bus.publish("other", replace(told, event_type="order.placed"))
    with pytest.raises(AgentdError, match="free text of other") as error:
        world.go(DONE)
    assert "`accepts`" in error.value.what
    assert world.sessions.archive.steps(world.session.id) == []


class Lenient(Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> "Lenient":
        return cls.A


class Counted(Forbid):
    """Lets every text through, and lists none."""

    n: Annotated[int, BeforeValidator(lambda value: len(str(value)))]
    kind: Lenient


@pytest.mark.parametrize("text", [{"n": "delete all"}, {"kind": "delete all"}, {"n": "12"}])
def test_what_a_model_makes_of_a_text_is_not_what_came(tmp_path: Path, text: Any) -> None:
    """An agent's validators turn texts into numbers and members; its model reads the texts."""
    assert without_text(Counted)
    payload = {"n": 1, "kind": "a", **text}
    Counted.model_validate(payload)
    world = World(tmp_path / "a.db", Policy(agent="worker", typed=frozenset({"order.counted"})))
    world.agent.accepts = {"order.counted": Counted}  # type: ignore[misc]
    world.bus.publish("other", NewEvent("order.counted", payload, target="worker"))
    with pytest.raises(AgentdError, match="free text of other"):
        world.go(DONE)


# --- what an answer must be


@pytest.mark.parametrize("answer", ["yes please", "yes, but", "ok", "", 1, None, True])
def test_an_approval_is_answered_yes_or_no(world: World, answer: Any) -> None:
    """Nothing else is taken for a yes."""
    world.go(WRITE)
    with pytest.raises(UsageError, match="neither yes nor no"):
        world.say(answer)
    assert world.bus.events.list(event_type="person.answer") == []


def test_the_second_answer_is_told_so(world: World) -> None:
    """Whether its agent has read the first one or not."""
    world.go(WRITE)
    world.say("Yes")
    for _ in range(2):
        with pytest.raises(AgentdError, match="answered already: yes"):
            world.say("no")
    world.go(DONE)
    with pytest.raises(AgentdError, match="waits for no answer: it is ended"):
        world.say("no")
    with pytest.raises(UsageError, match="no such session"):
        world.say("yes", 99)
    assert len(world.bus.events.list(event_type="person.answer")) == 1


def _race(path: str, said: str, gate: Any, told: Any) -> None:
    bus = Bus(Path(path), clock=ManualClock())  # of the time at which it was asked
    gate.wait()
    try:
        give(bus, HOME_KEY, 1, said)
        told.put(said)
    except AgentdError as error:
        told.put(error.what)
    bus.close()


def test_of_two_who_answer_at_once_one_is_told(world: World) -> None:
    """Two processes, over and over: one answer, and one that hears of it."""
    context = multiprocessing.get_context("spawn")
    world.go(WRITE)
    gate, told = context.Barrier(2), context.Queue()
    for number in range(3):
        both = [
            context.Process(target=_race, args=(str(world.path), said, gate, told))
            for said in ("yes", "no")
        ]
        for process in both:
            process.start()
        heard = {told.get(timeout=60) for _ in both}
        for process in both:
            process.join()
        (answer,) = heard & {"yes", "no"}
        assert heard == {answer, f"was answered already: {answer}"}
        world.go(("WriteFile", {"path": str(number), "text": ""}))
    assert len(world.bus.events.list(event_type="person.answer")) == 3


FORGERIES: list[tuple[str, Any]] = [
    ("not signed", lambda event, other: {**event.payload, MAC: None}),
    ("not signed", lambda event, other: {k: v for k, v in event.payload.items() if k != MAC}),
    ("signature is wrong", lambda event, other: {**event.payload, "answer": "yes", "why": "x"}),
    ("signature is wrong", lambda event, other: {**event.payload, MAC: other.payload[MAC]}),
    ("signature is wrong", lambda event, other: {**event.payload, MAC: "a.b"}),
    ("something else than what", lambda event, other: other.payload),
]


@pytest.mark.parametrize("number", range(len(FORGERIES)))
def test_a_forged_or_altered_answer_is_a_dead_letter(world: World, number: int) -> None:
    """By SQL, by another agent, taken from elsewhere: the session waits on, and nothing is done."""
    said, forge = FORGERIES[number]
    world.go(WRITE)
    (waits,) = unanswered(world.bus, HOME_KEY)
    yes, no = (
        signed(waits.asked.answered({"answer": answer}, "worker"), HOME_KEY)
        for answer in ("yes", "no")
    )
    elsewhere = {"session": 1, "asked": "0" * 64, "answer": "yes"}
    other = yes if said == "signature is wrong" else NewEvent("person.answer", elsewhere, "worker")
    payload = forge(no, signed(other, HOME_KEY) if other is not yes else yes)
    world.bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload, target) VALUES ('person', ?, ?, 'worker')",
        ("person.answer", json.dumps(payload)),
    )
    dead = world.go()
    assert isinstance(dead, Dead) and dead.reason is DeadReason.INVALID, dead
    assert said in dead.error
    assert world.state == "parked" and world.agent.did == []
    world.say("no")  # the forged one stood in nobody's way
    world.go(DONE)
    assert world.kinds()[-1] == "decision" and world.agent.did == []


def test_what_answers_nothing_hides_no_question(world: World) -> None:
    """A forged answer, or one to something else, that its agent has yet to read."""
    world.go(WRITE)
    (waits,) = unanswered(world.bus, HOME_KEY)
    told = waits.asked.answered({"answer": "no"}, "worker")
    elsewhere = replace(told, payload={**told.payload, "asked": "0" * 64})
    for event in (signed(told, b"another key"), signed(elsewhere, HOME_KEY)):
        world.bus.publish("person", event, system=True)
    (waits,) = unanswered(world.bus, HOME_KEY)
    assert waits.answer is None
    world.say("yes")
    assert [isinstance(world.go(), Dead) for _ in "ab"] == [True, True]
    world.go(DONE)
    assert world.agent.did == [WRITE[1]]


@pytest.mark.parametrize("decision", [WRITE, ("AskPerson", {"question": "where?"})])
def test_a_signed_answer_that_says_nothing_is_none(world: World, decision: Any) -> None:
    """`agentd send` signs what a person writes; the session waits on."""
    world.go(decision)
    (waits,) = unanswered(world.bus, HOME_KEY)
    event = signed(waits.asked.answered({}, "worker"), HOME_KEY)
    world.bus.publish("person", event, system=True)
    dead = world.go()
    assert isinstance(dead, Dead) and "has no `answer`" in dead.error
    assert world.state is SessionState.PARKED


def test_steps_that_somebody_changed_allow_nothing(world: World) -> None:
    """Neither a granted step by SQL nor other arguments behind a true yes."""
    world.go(WRITE)
    db = world.bus.db
    db.run("UPDATE sessions SET state = 'running'")
    db.run(
        "INSERT INTO steps (session_id, seq, kind, type, payload, ts, trusted, idempotent,"
        " active_ms) SELECT session_id, seq + 1, 'granted', type, '{}', ts, 1, 1, 0"
        " FROM steps WHERE kind = 'asked'"
    )
    db.run("UPDATE cursors SET last_seen_id = 0 WHERE consumer = 'worker'")
    with pytest.raises(SessionFailed, match="nobody said yes to this WriteFile"):
        world.go()
    assert world.agent.did == []


def test_a_yes_to_a_question_is_no_approval(world: World) -> None:
    """Whoever takes the step away that asks shows a person a question without its arguments."""
    world.go(WRITE)
    world.bus.db.run("DELETE FROM steps WHERE kind = 'asked'")
    world.say("yes")
    event = world.bus.next(DIRECT)
    assert event is not None
    assert isinstance(world.sessions.begin(DIRECT, event, "v1", Limits()), Session)
    assert world.kinds()[-1] == "result", "an answer, and no more"
    world.bus.db.run("UPDATE steps SET kind = 'granted' WHERE kind = 'result'")
    with pytest.raises(SessionFailed, match="nobody said yes"):
        world.go()
    assert world.agent.did == []


@pytest.mark.parametrize("column", ["raw", "payload"])
def test_arguments_that_somebody_changed_are_not_what_was_allowed(
    world: World, column: str
) -> None:
    """Between the question and the answer, or between the answer and the effect."""
    world.go(WRITE)
    world.say("yes")
    change = f"UPDATE steps SET {column} = replace({column}, '\"a\"', '\"/etc/passwd\"')"
    assert world.bus.db.change(f"{change} WHERE kind = 'decision'", ()) == 1
    if column == "raw":
        with pytest.raises(SessionFailed, match="nobody said yes"):
            world.go()
    else:
        assert isinstance(world.go(), Dead)
    assert world.agent.did == []


def test_the_tool_is_the_one_that_was_shown(world: World) -> None:
    """Two tools may take the same arguments: a yes to reading them is none to deleting them."""
    world.policy = Policy(asks=frozenset({"WriteFile", "ReadFile"}))
    world.go(("ReadFile", {"path": "a"}))
    world.say("yes")
    change = "UPDATE steps SET raw = replace(raw, '\"ReadFile\"', '\"WriteFile\"')"
    assert world.bus.db.change(f"{change} WHERE kind = 'decision'", ()) == 1
    with pytest.raises(SessionFailed, match="nobody said yes to this WriteFile"):
        world.go()
    assert world.agent.did == []


@pytest.mark.parametrize(
    "change",
    ["ts = strftime('%Y-%m-%dT%H:%M:%fZ', ts, '+30 minutes')", """payload = '{"expires":"2d"}'"""],
)
def test_a_yes_lasts_no_longer_than_was_shown(world: World, change: str) -> None:
    """An old one, kept by whoever writes to the database, is not made young again."""
    world.go(WRITE)
    world.say("yes")
    assert world.bus.db.change(f"UPDATE steps SET {change} WHERE kind = 'asked'", ()) == 1
    dead = world.go()
    assert isinstance(dead, Dead) and "something else" in dead.error
    assert world.agent.did == []


@pytest.mark.parametrize("how", ["backup", "rows"])
def test_a_yes_is_used_once_whatever_becomes_of_the_database(world: World, how: str) -> None:
    """An older copy put back, or its rows by SQL: what was done is not done again."""
    world.go(WRITE)
    world.say("yes")
    if how == "backup":
        world.bus.db.run("PRAGMA wal_checkpoint(TRUNCATE)")
        older = world.path.read_bytes()
    world.go(DONE)
    if how == "backup":
        world.bus.close()
        world.path.write_bytes(older)
        for end in ("-wal", "-shm"):
            world.path.with_name(world.path.name + end).unlink(missing_ok=True)
        world.open()
    else:
        db = world.bus.db
        db.run("UPDATE sessions SET state = 'parked', question = 'may it?'")
        db.run("DELETE FROM steps WHERE seq > 3")
        db.run("UPDATE cursors SET last_seen_id = last_seen_id - 1 WHERE consumer LIKE '%/direct'")
        world.open()
    with pytest.raises(SessionFailed, match="yes to this WriteFile was used already"):
        world.go()
    assert world.agent.did == [WRITE[1]]
    failed = world.sessions.closing.fail(world.session, "as above")
    assert isinstance(failed, Dead) and failed.reason is DeadReason.PARTIAL_EFFECTS


def test_changed_code_asks_anew(world: World) -> None:
    """A yes to what another prompt decided is a yes to nothing."""
    world.go(WRITE)
    world.say("yes")
    world.go(WRITE, version="v2")
    assert world.session.id == 2 and world.agent.did == []
    assert world.state is SessionState.FAILED
    world.say("yes", 2)
    world.go(DONE, version="v2")
    assert world.agent.did == [WRITE[1]]


def test_nobody_to_ask_means_wait(world: World) -> None:
    """Where the supervisor cannot say now whether a person answered, the answer is not lost."""
    world.go(WRITE)
    world.say("yes")

    def away(event: Event) -> str | None:
        raise AgentdError("the supervisor did not answer")

    world.sessions = Sessions(world.bus, verify=away)
    wait = world.go()
    assert isinstance(wait, Wait) and wait.why == "verify"
    world.open()
    world.go(DONE)
    assert world.agent.did == [WRITE[1]]


# --- time


def test_nobody_to_ask_at_the_very_start_means_nothing_was_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is told, or a plan fails as what may be tried again: nothing has happened."""

    def away(answer: Event) -> str | None:
        raise ToolError("the supervisor did not answer")

    world.go(WRITE)
    world.say("yes")
    world.use = away  # type: ignore[method-assign]
    world.go(DONE)
    assert world.agent.did == [] and world.state is SessionState.ENDED
    assert "WriteFile was not begun: the supervisor did not answer" in world.llm.asked[0][0]
    world.bus.publish("person", NewEvent("order.placed", {"n": 2}))
    monkeypatch.setattr(world.agent, "planned", lambda _results: PlannedCall(*WRITE))
    world.go()
    world.say("yes", 2)
    with pytest.raises(SessionFailed, match="was not begun"):
        world.go()
    assert world.agent.did == []
    assert isinstance(world.sessions.closing.fail(world.session, "as above"), Wait)


def test_nobodys_answer_in_time_is_a_no(world: World) -> None:
    """Said by the supervisor on the direct lane, once, also where it was off meanwhile."""
    world.go(WRITE)
    world.clock.advance(DAY.total_seconds() - 1)
    assert expire(world.bus, HOME_KEY, world.clock.now()) == []
    world.clock.advance(30 * DAY.total_seconds())
    with pytest.raises(AgentdError, match="too late"):
        world.say("yes")
    (late,) = expire(world.bus, HOME_KEY, world.clock.now())
    assert late.agent == "worker"
    assert expire(world.bus, HOME_KEY, world.clock.now()) == [], "it is said already"
    world.go(DONE)
    assert world.steps[3] == ("denied", {"expired": True})
    assert "nobody said yes in time" in str(world.steps[4]) and world.agent.did == []


def test_who_answers_while_it_expires_is_obeyed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the supervisor's look and its no."""
    world.go(WRITE)
    (waits,) = unanswered(world.bus, HOME_KEY)
    real = world.bus.transaction

    def late() -> Any:
        monkeypatch.setattr(world.bus, "transaction", real)
        no = signed(waits.asked.answered({"answer": "no", "why": "mine"}, "worker"), HOME_KEY)
        world.bus.publish("person", no, system=True)
        return real()

    monkeypatch.setattr(world.bus, "transaction", late)
    assert expire(world.bus, HOME_KEY, world.clock.now() + 2 * DAY) == []
    world.go(DONE)
    assert ("denied", {"why": "mine"}) in world.steps


def test_each_yes_that_was_used_is_kept(paths: Paths) -> None:
    """Also when others were used since."""
    private_folder(paths.keys)
    assert [use(paths, asked) for asked in "ababc"] == [True, True, False, False, True]


def test_a_yes_that_is_read_too_late_is_a_no(world: World) -> None:
    """Its agent was paused for a week: a person has forgotten what it was about."""
    world.go(WRITE)
    world.say("yes")
    world.clock.advance(7 * DAY.total_seconds())
    assert expire(world.bus, HOME_KEY, world.clock.now()) == [], "somebody answered"
    world.go(DONE)
    assert world.agent.did == [] and "nobody said yes in time" in str(world.steps)


def test_a_granted_one_that_was_cut_expires_too(world: World) -> None:
    """Between the yes and the start; without time it is carried out."""
    world.go(WRITE)
    world.say("yes")
    event = world.bus.next(DIRECT)
    assert event is not None
    world.sessions.begin(DIRECT, event, "v1", Limits())
    assert world.kinds()[-1] == "granted"
    world.open()
    world.clock.advance(2 * DAY.total_seconds())
    world.go(DONE)
    assert world.agent.did == [] and world.kinds()[-2:] == ["result", "decision"]


def test_clocks_that_jump(world: World) -> None:
    """Back: it still waits. What was asked by a clock that was far ahead cannot be timed: a no."""
    asked_at = world.clock.now()
    world.go(WRITE)
    world.clock.set(asked_at - timedelta(minutes=30))
    assert expire(world.bus, HOME_KEY, world.clock.now()) == []
    world.clock.set(asked_at - 400 * DAY)
    assert len(expire(world.bus, HOME_KEY, world.clock.now())) == 1


def test_an_edited_expiry_expires_at_once(world: World) -> None:
    """A row that somebody changed allows nothing."""
    world.go(WRITE)
    world.bus.db.run(
        """UPDATE steps SET payload = '{"expires": "for ever"}' WHERE kind = 'asked'"""
    )
    world.clock.advance(1)
    with pytest.raises(AgentdError, match="too late"):
        world.say("yes")


def test_a_session_that_cannot_be_read_hides_no_other(world: World) -> None:
    """It is told of, and the others can be answered."""
    world.go(WRITE)
    world.bus.publish("person", NewEvent("order.placed", {"n": 2}))
    world.go(WRITE)
    world.bus.db.run("UPDATE steps SET payload = '[[' WHERE session_id = 1 AND kind = 'asked'")
    odd: list[int] = []
    (waits,) = unanswered(world.bus, HOME_KEY, odd=lambda id, _why: odd.append(id))
    assert (waits.asked.session, odd) == (2, [1])
    with pytest.raises(AgentdError, match="cannot be read"):
        world.say("yes")


# --- the key and the signature


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path / "home")})
    paths.create()
    return paths


def test_the_key_is_made_once_and_for_this_user(paths: Paths) -> None:
    """In a folder of its own, so that what sees the rest of the data need not see it."""
    key = person_key(paths)
    assert person_key(paths) == key and len(key) == 32
    assert (paths.keys / KEY).stat().st_mode & 0o777 == 0o600
    assert paths.keys.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["open", "short", "link", "folder", "others"])
def test_a_key_that_proves_nothing_is_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """One that others can read, or put there."""
    person_key(paths)
    file = paths.keys / KEY
    match how:
        case "open":
            file.chmod(0o640)
        case "short":
            file.write_bytes(b"x")
        case "link":
            file.rename(paths.keys / "other")
            file.symlink_to(paths.keys / "other")
        case "folder":
            file.unlink()
            file.mkdir()
        case "others":
            monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(StorageError, match="cannot be used") as error:
        person_key(paths)
    assert str(file) in error.value.where


def test_a_signature_holds_for_one_event_alone() -> None:
    """Type, target and every part of the payload are in it, in whatever order of keys."""
    event = signed(NewEvent("person.answer", {"b": [1, {"ü": "\ud800"}], "a": 1.5}, "worker"), b"k")
    payload = json.loads(json.dumps(dict(reversed([*event.payload.items()]))))
    assert forged(event.event_type, event.target, payload, b"k") is None
    for changed in (
        ("person.other", "worker", payload, b"k"),
        ("person.answer", "other", payload, b"k"),
        ("person.answer", None, payload, b"k"),
        ("person.answer", "worker", {**payload, "a": 1.6}, b"k"),
        ("person.answer", "worker", {**payload, "c": None}, b"k"),
        ("person.answer", "worker", payload, b"K"),
    ):
        assert forged(*changed) is not None
    again = signed(event, b"k")
    assert again.payload[MAC] != event.payload[MAC], "each has its own nonce"


def test_what_is_looked_up_is_the_row_and_for_whom(world: World) -> None:
    """Who asks learns of its own events, and whether it read the same row."""
    world.go(WRITE)
    event = world.bus.events.get(world.say("yes"))
    assert event is not None
    right = digest(event.event_type, event.target, event.payload)
    found = looked_up(world.bus, HOME_KEY, "worker", event.id)
    assert found == {"forged": None, "digest": right}
    assert "not addressed to other" in looked_up(world.bus, HOME_KEY, "other", event.id)["forged"]
    assert "not on the bus" in looked_up(world.bus, HOME_KEY, "worker", 999)["forged"]
    uses: list[str] = []
    for key in (b"another key", HOME_KEY):
        looked_up(world.bus, key, "worker", event.id, lambda asked: not uses.append(asked))  # type: ignore[func-returns-value]
    assert uses == [event.payload["asked"]], "a forged answer uses nothing up"
    assert right != digest(event.event_type, event.target, {**event.payload, "answer": "no"})


def test_a_row_that_was_changed_while_it_was_looked_at_is_not_believed(world: World) -> None:
    """A forged yes that is read, and a true no in its place when the supervisor looks."""
    world.go(WRITE)
    event = world.bus.events.get(world.say("no"))
    assert event is not None
    yes = replace(event, payload={**event.payload, "answer": "yes"})

    def ask(document: Mapping[str, Any], **more: Any) -> tuple[dict[str, Any], list[int]]:
        return looked_up(world.bus, HOME_KEY, "worker", document["event"]), []

    link = cast(SupervisorLink, SimpleNamespace(ask=ask))
    person = PersonsWord(link, None, lambda _seconds: None)
    assert person.forged(event) is None
    assert person.forged(yes) == "was changed while it was looked at"


def test_a_supervisor_that_is_gone_uses_nothing(world: World) -> None:
    """It is told as what a tool says that did nothing; an orderly stop is none."""
    world.go(WRITE)
    event = world.bus.events.get(world.say("yes"))
    assert event is not None
    for error, told in ((AgentdError("is gone"), ToolError), (Stopped("now"), Stopped)):
        link = SimpleNamespace(ask=Mock(side_effect=error))
        with pytest.raises(told):
            PersonsWord(cast(SupervisorLink, link), None, lambda _seconds: None).use(event)


def test_events_of_persons_are_the_systems_own(world: World) -> None:
    """No agent publishes one, and none is accepted that would."""
    for kind in ("person.answer", "person.asked", "person.note"):
        with pytest.raises(AgentdError, match="the system's own"):
            world.bus.publish("worker", NewEvent(kind, {}))


def test_kinds_of_steps_are_known_to_the_tables(world: World) -> None:
    """Each kind can be written."""
    world.go(WRITE)
    for seq, kind in enumerate(StepKind, 100):
        world.bus.db.run(
            "INSERT INTO steps (session_id, seq, kind, type, payload, ts, trusted, idempotent,"
            " active_ms) VALUES (1, ?, ?, 'x', '{}', '2026', 1, 1, 0)",
            (seq, kind.value),
        )
