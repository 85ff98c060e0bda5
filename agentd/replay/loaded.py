"""An agent's code, imported and ready to run outside of a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from agentd.admission.version import Version
from agentd.agent import Agent, Kit, Score, Scores, no_score
from agentd.approval.approval import Policy, policy_of
from agentd.config.agent import AgentConfig
from agentd.llm.baml import BamlLLM, load_client
from agentd.llm.decision import LLM, Ask, Decision, Message, Terms
from agentd.llm.endpoint import Endpoint
from agentd.llm.union import Client, Union
from agentd.logs.logger import Logger
from agentd.loop import Loop
from agentd.replay.code import Code
from agentd.replay.folder_map import FolderMap
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.tools.base import Grants
from agentd.tools.outside_tools import all_tools
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox
from agentd.worker.runner import Facts, calibration_of, repeatable

CALL_DEADLINE_S = 30.0  # promised to nobody here
NOTHING = SessionView()


class Quiet:
    """A logger whose lines nobody reads."""

    def _nothing(self, *_args: Any, **_keys: Any) -> None:
        pass

    debug = info = warning = error = exception = _nothing

    def bind(self, **_keys: Any) -> "Quiet":
        """Return itself: nobody reads the keys either."""
        return self


@dataclass(frozen=True)
class LoadedAgent:
    """An agent's code with its union, its tools, and its prompt without the log.

    Its configuration names folders as they are here; the prompt, as `folders` says they were.
    """

    version: Version
    client: Client
    union: Union
    tools: Toolbox
    folders: FolderMap
    messages: tuple[Message, ...]

    @classmethod
    def of(
        cls,
        code: Code,
        name: str,
        config: AgentConfig,
        where: str,
        *,
        tools: Toolbox,
        folders: FolderMap,
        facts: Mapping[str, Any] | None = None,
    ) -> "LoadedAgent":
        """Import the code for a configuration; `where` stands in errors.

        Raises:
            ConfigError: they do not fit, or the prompt cannot be rendered.
        """
        version = code.version(name, config, where)
        client = load_client(version.client_dir)
        union = Union(client, version.function, version.members, version.arguments, version.mcp)
        bare = cls(version, client, union, tools, folders, ())
        fixed = bare.agent(facts or {}).prompt_arguments()
        messages = tuple(
            {**message, "content": folders.as_recorded(message["content"])}
            for message in union.frame({"done": config.done, **fixed})
        )
        return cls(version, client, union, tools, folders, messages)

    def agent(
        self,
        facts: Mapping[str, Any],
        score: Score = no_score,
        session: Session | None = None,
        view: SessionView = NOTHING,
    ) -> Agent[Any]:
        """Return an instance of the agent's class that remembers `facts`, for a session.

        `view`: what its tools know besides.
        """
        name, config = self.version.accepted.name, self.version.accepted.config
        memory = Facts(facts)
        trusted = view.trusted if session is None else lambda: session.trusted
        self.tools.session = replace(view, memory=memory, trusted=trusted)
        kit = Kit(name, config.done, self.tools, memory, self.client.types, score, config.labels)
        return self.version.agent(self.version.params, kit)

    @property
    def grants(self) -> Grants:
        """What it may touch, as its decisions name it."""
        return Grants(**self.folders.as_recorded(vars(self.tools.grants)))

    @property
    def policy(self) -> Policy:
        """What of its decisions a person has to allow.

        Raises:
            ConfigError: [approve] does not fit them.
        """
        accepted, accepts = self.version.accepted, self.version.agent.accepts
        tools = all_tools(self.version.mcp)
        classes = {*self.union.members, *self.version.plans}
        config, grants = accepted.config, self.grants
        return policy_of(accepted.name, config, classes, accepts, tools, grants=grants)

    def loop(
        self,
        session: Session,
        journal: Journal,
        agent: Agent[Any],
        llm: LLM,
        policy: Policy | None = None,
    ) -> Loop:
        """Return the loop of a session: nobody watches it, and nobody reads its log lines.

        `policy`: another than the configuration's.
        """
        return Loop(
            session,
            agent,
            llm,
            journal,
            idempotent=repeatable(self.version, all_tools(self.version.mcp)),
            policy=policy or self.policy,
            call_deadline_s=CALL_DEADLINE_S,
            log=cast(Logger, Quiet()),
            beat=lambda _promise: None,
        )


class FixedPromptLLM(BamlLLM):
    """A real model, asked with a loaded agent's messages.

    A call may take `call_deadline_s`, whatever deadline the loop gives.
    """

    def __init__(
        self, loaded: LoadedAgent, endpoint: Endpoint, call_deadline_s: float, *, agent: str = ""
    ) -> None:
        accepted = loaded.version.accepted
        super().__init__(
            loaded.union,
            loaded.messages,
            endpoint,
            agent=agent or accepted.name,
            weight=accepted.config.priority,
            calibration=calibration_of(loaded.version, loaded.union),
        )
        self._call_deadline_s = call_deadline_s

    def decide(self, ask: Ask) -> Decision:
        """Ask for one decision, within the time that this model is given."""
        return super().decide(replace(ask, deadline_s=self._call_deadline_s))

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Score items after heads, within that time."""
        return super().score(heads, items, replace(terms, deadline_s=self._call_deadline_s))
