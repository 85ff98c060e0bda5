"""What an agent may do by itself, and what a person has to say yes to before it happens.

By its tools: what reads is carried out, what sends, deletes or changes something is asked about;
but not what it writes into its own folder. An agent that reads what others wrote may be told by
that text to do something. Its file's table [approve] has the last word, and says so where that is
a risk.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentd.approval.payloads import as_listed, without_text
from agentd.config.agent import TASK, AgentConfig, Approve, Verdict
from agentd.config.suggest import did_you_mean, listed
from agentd.errors import ConfigError
from agentd.events import DAEMON, FILE, PERSON, Event, parts
from agentd.llm.decision import DONE
from agentd.tools.base import Grants
from agentd.tools.declared_tools import REGISTRY, Tool
from agentd.tools.place import is_own

RISK = "i_accept_the_risk"
# Why something is asked about, by a tool's effect.
REASONS = {
    "none": "",
    "change": "it may change what is not in its own folder",
    "send": "nobody can take back what it does",
}
OURS = ("schedule.", "agentd.")  # nobody else's words; `agent.*` may quote an error's text


@dataclass(frozen=True)
class Policy:
    """One agent's verdicts on its decisions; what is in neither set is carried out unasked.

    `why` says for people, by decision, why it is asked about. `typed`: the events whose payload
    holds no free text, None where any may come from other agents. `spared`: by decision the fields
    with paths; it asks nobody where all of them lie in the agent's own folder, by `grants`.
    """

    asks: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    expires: timedelta = Approve().expires
    why: Mapping[str, str] = field(default_factory=dict)
    agent: str = ""
    typed: frozenset[str] | None = None
    spared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grants: Grants = field(default_factory=Grants)

    def asks_about(self, decision: str, args: Mapping[str, Any]) -> bool:
        """Whether a person has to say yes to this decision with these arguments."""
        places = self.spared.get(decision, ())
        own = bool(places) and all(is_own(str(args.get(key)), self.grants) for key in places)
        return decision in self.asks and not own

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What is not carried out unasked, as a session keeps it for a replay."""
        asks: dict[str, Verdict] = dict.fromkeys(sorted(self.asks), "ask")
        return {**asks, **dict.fromkeys(sorted(self.denied), "deny")}

    @classmethod
    def kept(cls, verdicts: Mapping[str, Verdict], config: AgentConfig, grants: Grants) -> "Policy":
        """Return the policy that a session kept so; it trusts the event that it had."""
        asks, denied = (
            frozenset(d for d, verdict in verdicts.items() if verdict == of)
            for of in ("ask", "deny")
        )
        spared = _spared(asks, config.approve, REGISTRY)
        return cls(asks, denied, config.approve.expires, spared=spared, grants=grants)

    def mistrusts(self, event: Event, accepts: Mapping[str, type[BaseModel]]) -> str | None:
        """Say why an agent that acts unasked takes no such event, None where it does."""
        if self.typed is None:
            return None
        for part in parts(event):
            kind, others = part.event_type, part.agent not in (PERSON, DAEMON, self.agent)
            if others and not (kind in self.typed and as_listed(accepts[kind], part.payload)):
                return (
                    f"may hold free text of {part.agent}, and {self.agent} acts on it without "
                    "asking: declare a payload of numbers and listed texts in `accepts`, or ask in "
                    "[approve]"
                )
        return None


def policy_of(
    name: str,
    config: AgentConfig,
    classes: Collection[str],
    accepts: Mapping[str, type[BaseModel]],
    tools: Mapping[str, Tool],
    *,
    grants: Grants | None = None,
    file: Path | None = None,
) -> Policy:
    """Return the policy of an agent whose union has these classes.

    `tools`: all that there are for it, by class. `grants` say where its own folder is. `file`
    stands in errors.

    Raises:
        ConfigError: [approve] names no decision, or allows what may be done at others' bidding.
    """
    decisions = sorted(set(classes) - {DONE})
    rules, where = config.approve, f"{file}: approve" if file else "approve"
    _check_names(rules, decisions, tools, where)
    typed = frozenset(kind for kind, model in accepts.items() if without_text(model))
    reads = _others_words(config, decisions, typed, tools)
    verdicts: dict[str, Verdict] = {}
    why: dict[str, str] = {}
    for decision in decisions:
        effect = tools[decision].effect if decision in tools else "none"
        reason = REASONS[effect]
        if reason and reads:
            reason += f"; it reads what others wrote ({', '.join(reads)})"
        said = rules.verdicts.get(decision)
        if said == "allow" and effect != "none" and reads and not rules.i_accept_the_risk:
            raise _risk(decision, reads, where)
        verdicts[decision] = said or ("ask" if reason else "allow")
        why[decision] = f'[approve] {decision} = "{said}"' if said else reason
    asks = frozenset(d for d in decisions if verdicts[d] == "ask")
    unasked = any(
        verdicts[d] == "allow" and d in tools and tools[d].effect != "none" for d in decisions
    )
    return Policy(
        asks,
        frozenset(d for d in decisions if verdicts[d] == "deny"),
        rules.expires,
        {d: why[d] for d in sorted(asks)},
        name,
        typed if unasked and not rules.i_accept_the_risk else None,
        _spared(asks, rules, tools),
        grants or Grants(),
    )


def _spared(
    asks: Collection[str], rules: Approve, tools: Mapping[str, Tool]
) -> dict[str, tuple[str, ...]]:
    """Return what asks nobody in the agent's own folder: unless its file says "ask" itself."""
    return {d: tools[d].places for d in asks if d in tools and d not in rules.verdicts}


def _others_words(
    config: AgentConfig,
    decisions: Sequence[str],
    typed: frozenset[str],
    tools: Mapping[str, Tool],
) -> list[str]:
    """Return by what an agent may read free text of others: its decisions, its code, and events."""
    held = [d for d in decisions if config.approve.verdicts.get(d) != "deny"]
    found = [d for d in held if d not in tools or tools[d].untrusted]
    if config.sandbox.head == "files" and (config.permissions.read or config.permissions.write):
        found.append("files, by its own code")  # also before the model's first decision
    if config.agent != TASK:  # its own code may call whatever its permissions leave it
        found += [
            name
            for name, tool in sorted(tools.items())
            if name not in decisions and tool.untrusted
            if not tool.needs or any(getattr(config.permissions, kind) for kind in tool.needs)
        ]
    kinds = [*config.subscribe, *([FILE] if config.watch else ())]  # a file's name is others' words
    found += [f"events {kind}" for kind in kinds if kind not in typed and not kind.startswith(OURS)]
    return found


def _check_names(
    rules: Approve, decisions: Sequence[str], tools: Mapping[str, Tool], where: str
) -> None:
    for name in rules.verdicts:
        if name in decisions:
            continue
        what = f"{name} is a tool that it has not" if name in tools else f"{name} is no decision"
        raise ConfigError(
            f"{what}{did_you_mean(name, (*decisions, *Approve.model_fields))}",
            where=f"{where}.{name}",
            hint=f"it decides {listed(decisions)}; remove the line, or correct it",
        )


def _risk(tool: str, reads: Sequence[str], where: str) -> ConfigError:
    return ConfigError(
        f"it reads what others wrote ({', '.join(reads)}) and would do {tool} without asking: "
        f"a text that it reads can tell it what to do with {tool}, and nobody would look at that "
        "before it happens",
        where=f"{where}.{tool}",
        hint=f'write {tool} = "ask" there; or, if you take that risk, add the line {RISK} = true',
    )
