"""Runs an agent's sessions: its module, its BAML client, its tools and its model, loaded once."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agentd import __version__, secret_rules
from agentd.admission.version import Accepted, Version, import_version
from agentd.agent import Agent, Kit, Memory, Score, Scores, no_score
from agentd.approval.approval import policy_of
from agentd.bus import Bus
from agentd.bus.search import Readable
from agentd.clock import Clock
from agentd.config.agent import Permissions
from agentd.config.daemon import DaemonConfig
from agentd.config.secret_names import PREFIX
from agentd.config.secret_values import secret_of
from agentd.errors import AgentdError, ModelMisconfigured, SandboxUnavailable
from agentd.events import Event
from agentd.llm.baml import BamlLLM, load_client
from agentd.llm.calibration import Calibration
from agentd.llm.decision import LLM, Terms
from agentd.llm.endpoint import QUEUE_WAIT_MAX_S, Endpoint
from agentd.llm.label_bias import RECENT
from agentd.llm.union import Union
from agentd.logs.logger import Logger
from agentd.loop import Ending, Loop
from agentd.paths import Paths
from agentd.process.supervisor_link import SupervisorLink
from agentd.secret_rules import without_known
from agentd.sessions.archive import Archive
from agentd.sessions.closing import Closing
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.tools.closed import Closed
from agentd.tools.declared_tools import Tool
from agentd.tools.git import carried_out_by, held_to
from agentd.tools.outside_tools import all_tools
from agentd.tools.remote import remotes_of
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox
from agentd.whole import remove


class Facts:
    """An agent's remembered facts, read once for a session; an `agent.Memory`."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def get(self, key: str, default: Any = None) -> Any:
        """Return the JSON value remembered under `key`."""
        return self._facts.get(key, default)

    def __iter__(self) -> Iterator[str]:
        """Give all keys."""
        return iter(self._facts)


class Runner:
    """What an agent's sessions share. Made at the first event: BAML alone takes 20 MB.

    Raises:
        ConfigError: the version or the model's settings cannot be used.
        SandboxUnavailable: what it may touch needs hands in a sandbox, and there is none here.
    """

    def __init__(
        self,
        accepted: Accepted,
        paths: Paths,
        daemon: DaemonConfig,
        bus: Bus,
        clock: Clock,
        link: SupervisorLink,
    ) -> None:
        self._config = accepted.config
        permissions = accepted.config.permissions
        if link.there and permissions != Permissions():
            _check_sandbox(link)  # before anything is decided that could not be done
        self._link, self._paths = link, paths
        self._remotes = remotes_of(link)
        self._name = accepted.name
        self._bus = bus
        self._call_deadline_s = daemon.model.call_deadline.total_seconds()
        self._model = None if daemon.model.url else daemon.model.name
        self._version = version = import_version(accepted)
        client = load_client(version.client_dir)
        self._types = client.types
        tools = all_tools(version.mcp)
        self._tools = Toolbox(
            permissions,
            own=os.path.realpath(paths.own_folders / accepted.name),
            closed=Closed.of(paths, accepted.name, daemon.model.api_key_file),
            remotes=self._remotes,
            tools=tools,
            accounts=accepted.config.accounts,
            secret=self._secret,
            clock=clock,
        )
        self._view = SessionView(
            events=bus.search.finder(Readable(accepted.name, accepted.config.subscribe)),
            passages=partial(bus.search.passages, accepted.name),
            news=partial(bus.events.news, accepted.name),
        )
        self._idempotent = repeatable(version, tools)
        self._endpoint = Endpoint.discover(paths, daemon.model, clock, link)
        union = Union(client, version.function, version.members, version.arguments, version.mcp)
        config, accepts = accepted.config, version.agent.accepts
        classes = {*union.members, *version.plans}
        self._policy = policy_of(
            accepted.name, config, classes, accepts, tools, grants=self._tools.grants
        )
        self._archive = Archive(bus)
        self._calibration = calibration_of(version, union)
        self._llm = BamlLLM(
            union,
            union.frame({"done": self._config.done, **self._prompt_arguments()}),
            self._endpoint,
            agent=accepted.name,
            weight=self._config.priority,
            clock=clock,
            calibration=self._calibration,
        )

    def run(
        self,
        session: Session,
        journal: Journal,
        log: Logger,
        beat: Callable[[float], None],
        use: Callable[[Event], str | None],
    ) -> Ending:
        """Run one session; see `Loop` for `use`, and `Loop.run` for what it raises."""
        beat(self._call_deadline_s)  # counting tokens may already wait for the model server
        facts = self._bus.facts.of(self._name)
        self._tools.session = view = replace(
            self._view,
            memory=Facts(facts),
            trusted=lambda: session.trusted,
            open_later=lambda: self._bus.later.count(self._name) + session.sets_later,
        )
        self._note_basis(session, journal, facts)
        if self._calibration.fields:
            self._resume_labels(session)
        call_deadline_s = min(
            self._call_deadline_s, self._config.limits.no_progress.total_seconds()
        )
        loop = Loop(
            session,
            self._agent(view.memory, scoring(self._llm, session, call_deadline_s, beat)),
            self._llm,
            journal,
            idempotent=self._idempotent,
            policy=self._policy,
            call_deadline_s=call_deadline_s,
            log=log,
            beat=beat,
            use=use,
        )
        hands = self._remotes.get("hands")
        with carried_out_by(hands) if hands else held_to(self._tools.check_readable):
            return loop.run()

    def interrupt(self) -> None:
        """Interrupt the running call or tool for good, from another thread."""
        self._tools.close()
        self._llm.close()

    def _resume_labels(self, session: Session) -> None:
        model = self._model or self._endpoint.model()  # a cut session may go on with another one
        load = partial(
            self._archive.labels,
            agent=self._name,
            version=session.version,
            model=model,
            limit=RECENT,
        )
        self._calibration.resume(model, load)

    def _note_basis(self, session: Session, journal: Journal, facts: Mapping[str, Any]) -> None:
        """Note what the session depends on besides its event, for a replay."""
        if not session.basis:
            session.basis = {
                "agentd": __version__,
                "version": self._version.accepted.hash,
                "config": self._config.model_dump(mode="json", exclude_defaults=True),
                "prompt": self._llm.prompt(""),
                "approve": self._policy.verdicts,
                "own": self._tools.grants.own,
                "model": self._model or self._endpoint.model(),
                "window": self._llm.window(),
                "fixed_tokens": self._llm.fixed_tokens(),
                "facts": [[session.attempt, facts]],
            }  # written with the opening
        elif session.basis["facts"][-1][1] != facts:  # another session came in between
            session.basis["facts"].append([session.attempt, facts])
            journal.note_basis(session, session.basis)

    def _agent(self, memory: Memory, score: Score = no_score) -> Agent[Any]:
        config = self._config
        kit = Kit(
            self._name,
            config.done,
            self._tools,
            memory,
            self._types,
            score,
            config.labels,
            self._secret,
        )
        return self._version.agent(self._version.params, kit)

    def _prompt_arguments(self) -> Mapping[str, Any]:
        arguments: dict[str, Any] = without_known(dict(self._agent(Facts({})).prompt_arguments()))
        return arguments

    def _secret(self, name: str) -> str:
        """See `Kit.secret`. The supervisor finds it: in its sandbox a worker can read none."""
        name = name.removeprefix(PREFIX)
        if not self._link.there:
            return secret_of(self._config.secrets, name, self._paths)
        asked = {"ask": "secret", "name": name}
        value = str(self._link.ask(asked, cancel=self._tools.cancel)[0]["value"])
        secret_rules.remember(value)
        return value


def _check_sandbox(link: SupervisorLink) -> None:
    try:
        link.ask({"ask": "sandbox"})
    except SandboxUnavailable:
        raise
    except AgentdError:
        return  # it does not answer now; it is asked again where hands are wanted


def use_scratch(folder: Path) -> None:
    """Let this process's temporary files lie in a folder of its own, emptied first.

    What a killed worker left is gone with its next start, and never fills the system's own folder.
    The supervisor made it: this process may be kept from making or removing one there.
    """
    with contextlib.suppress(OSError):  # it is not there: then the system's own it is
        for path in folder.iterdir():
            remove(path)
        tempfile.tempdir = str(folder)


def calibration_of(version: Version, union: Union) -> Calibration:
    """Return the label fields of a version, as its file wants them taken.

    Raises:
        ConfigError: one is no field with labels.
    """
    fields = {field: union.labels(field) for field in sorted(version.labels)}
    return Calibration(fields, version.accepted.config.labels)


def scoring(
    llm: LLM, session: Session, deadline_s: float, beat: Callable[[float], None] = lambda _s: None
) -> Score:
    """Return a session's `Kit.score`; what it gives is recorded with the session's next step.

    That a server cannot score is recorded as well, as no values: an agent may go on without.
    """

    def score(heads: Sequence[str], items: Sequence[str]) -> Scores:
        terms = Terms(
            deadline_s=deadline_s,
            priority=session.priority,
            session=session.id,
            progress=lambda: None,
        )
        beat(deadline_s + QUEUE_WAIT_MAX_S)
        try:
            scores = llm.score(heads, items, terms)
        except ModelMisconfigured:
            session.scored.append(vars(Scores(heads, items, ())))
            raise
        beat(session.limits.no_progress.total_seconds())  # the agent's own code goes on
        session.scored.append(vars(scores))
        return scores

    return score


def repeatable(version: Version, tools: Mapping[str, Tool]) -> frozenset[str]:
    """Return the decision classes whose handlers may run again after they were cut off."""
    agent = version.agent
    return agent.idempotent | agent.reads | {n for n in version.uses if tools[n].idempotent}


def settle(closing: Closing, session: Session, ending: Ending) -> None:
    """Bring a session to rest as its run of the loop ended: closed, or parked on its question.

    Raises:
        EventRefused, SessionFailed, LostLane: nothing was written; the session still runs.
    """
    if ending.question is None:
        result = ending.result
        closing.close(
            session,
            publish=result.publish,
            remember=result.remember,
            outcome=ending.outcome,
            forced=ending.forced,
        )
        return
    closing.park(session, ending.question)
