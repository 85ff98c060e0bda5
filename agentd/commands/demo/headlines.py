"""The demo's first screen: an agent of ten lines finds out which headlines are for a person."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from agentd.commands.output import plain

AGENT = "headlines"
ASKED, RANKED = "headlines.read", "headlines.ranked"
NONE = "nothing for you"
FILE = """\
agent = "task"
done = "The headlines are in the order of what is for me."
subscribe = ["{asked}"]

[params]
each = "event.headlines"
interests = {interests}
title = "{{count}} headlines, {{interest}} of them for you"
publish = "{ranked}"

[result]
headline = {{ from = "name" }}
"""


@dataclass(frozen=True)
class Headlines:
    """The shipped headlines, in a mixed order, each with what it is about."""

    interests: tuple[str, ...]
    about: Mapping[str, str]


def shipped_headlines() -> Headlines:
    """Return them."""
    file = Path(__file__).with_name("headlines.toml")
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    groups = [[(text, kind) for text in texts] for kind, texts in found["headlines"].items()]
    mixed = filter(None, chain.from_iterable(zip_longest(*groups)))
    return Headlines(tuple(found["interests"]), dict(mixed))


def agent_file(interests: Sequence[str]) -> str:
    """Return the agent's file: all of it, as it runs. Interests hold no control characters."""
    listed = json.dumps(interests, ensure_ascii=False)  # as TOML has it, too
    return FILE.format(asked=ASKED, ranked=RANKED, interests=listed)


def for_each_interest(interests: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranked headlines in Markdown: what goes with each interest, then the rest."""
    parts = []
    for interest in (*interests, None):
        found = [f"* {plain(row['headline'])}" for row in rows if row["interest"] == interest]
        name = NONE if interest is None else interest
        parts.append("\n".join([f"{name}:", "", *(found or ["* none of these"])]))
    return "\n\n".join(parts)
