"""What an agent may do, in sentences for the person who gave it that."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.config.agent import TASK, AgentConfig

LISTS = (
    ("read", "It reads", "It reads none of your files."),
    ("write", "It writes to", "It writes none of your files."),
    ("net", "It fetches from", "It reaches nothing in the network."),
    ("run", "It runs", "It runs no programs."),
    ("apps", "It uses of this Mac", ""),
)
SANDBOXES = {
    "full": "The system itself keeps its processes to this: they open, reach and run nothing else.",
    "partial": "The system keeps its processes to most of this, not to all: {why}.",
    "checks": "Only agentd's own checks keep it to this, not the system: {why}.",
}
VERDICTS = {"allow": "does without asking", "ask": "asks you about", "deny": "never does"}


def permission_words(config: AgentConfig) -> list[dict[str, Any]]:
    """Return what an agent's file lets it do: each a sentence `what`, with the `items` it is about.

    Its own folder it always has; what sends, deletes or changes something else it asks about.
    """
    found = []
    for key, has, lacks in LISTS:
        items: Sequence[str] = getattr(config.permissions, key)
        if items or lacks:
            found.append(_sentence(has if items else lacks, items))
    if config.accounts:
        found.append(_sentence("It reads the mail of", sorted(config.accounts)))
    if config.secrets:
        found.append(_sentence("It is given the secrets", sorted(config.secrets)))
    found.append(_sentence("It reads and writes a folder of its own."))
    for verdict, does in VERDICTS.items():
        named = [name for name, of in config.approve.verdicts.items() if of == verdict]
        if named:
            found.append(_sentence(f"By [approve] it {does}", named))
    found.append(
        _sentence("Whatever else sends, deletes or changes something, it asks you about first.")
    )
    if config.agent != TASK:
        opens = "opens what is listed here" if config.sandbox.head == "files" else "opens no files"
        found.append(_sentence(f"Its own code {opens}, and has its tools."))
    return found


def sandbox_words(sandbox: Mapping[str, Any] | None) -> str:
    """Return how well agents are kept to that here; "" where no daemon says so."""
    if not sandbox:
        return ""
    return SANDBOXES[sandbox["level"]].format(why=sandbox["why"])


def _sentence(what: str, items: Sequence[str] = ()) -> dict[str, Any]:
    return {"what": what, "items": [*items]}
