"""Who hears whom: rings of agents that wake each other, and subscriptions that nobody serves."""

from collections.abc import Iterator, Mapping, Sequence

from agentd.commands.checked import Checked
from agentd.events import FILE, SYSTEM_TYPES, matches


def cycles(checked: Sequence[Checked]) -> list[list[str]]:
    """Return each ring of agents that can wake each other for ever, as names, the first repeated.

    An agent does not receive its own events, so a ring has at least two members.
    """
    edges = {
        a.name: sorted(
            b.name
            for b in checked
            if b.name != a.name
            and any(matches(kind, item) for kind in a.publishes for item in b.subscribe)
        )
        for a in checked
    }
    found: dict[frozenset[str], list[str]] = {}
    for start in edges:
        ring = _way_back(start, edges)
        if ring:
            found.setdefault(frozenset(ring), ring)
    return list(found.values())


def _way_back(start: str, edges: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the shortest way from `start` back to itself, or None: a breadth-first search."""
    ways, seen = [[start]], set[str]()
    for way in ways:
        for following in edges[way[-1]]:
            if following == start:
                return [*way, start]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return None


def unheard(checked: Sequence[Checked]) -> Iterator[tuple[str, list[str]]]:
    """Yield each subscription that no other of these agents publishes for, and whose it is."""
    for item in checked:
        others = {kind for other in checked if other is not item for kind in other.publishes}
        for wanted in item.subscribe:
            if not wanted.startswith(SYSTEM_TYPES) and not any(
                matches(kind, wanted) for kind in others
            ):
                only = "who has it in `watch` gets" if wanted == FILE else "`agentd send` publishes"
                what = f"{item.name}: no agent here publishes {wanted}; only {only} it"
                yield what, [item.name]
