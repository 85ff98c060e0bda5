"""`agentd check [FILE]`: is the configuration right, with everything that the agents need?"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentd.commands.output import GREEN, RED, YELLOW, colour, plain, print_json
from agentd.errors import ConfigError, UsageError
from agentd.paths import Paths, discover
from agentd.states import Exit

EXAMPLES = """example:
  agentd check
  agentd check ~/drafts/repo_review.toml

Each agent is checked the way the daemon does before it starts it: keys and values, its module, its
.baml, its parameters and permissions. Cycles among subscriptions are warnings, and so is what is
wrong with an agent that its file disables. Exits 1 when something is wrong.

--json prints one object: ok, checked [names], problems [{name, where, what, hint, waiting,
enabled}], warnings [{what, agents}]."""


NAME_MAX = 48  # characters; a longer file name is no agent's, and makes no column


@dataclass(frozen=True)
class Checked:
    """What the check of one file came to: a problem, or what the agent reads and writes."""

    name: str
    problem: ConfigError | None
    waiting: bool = False  # not wrong, only incomplete
    enabled: bool = True  # False: nothing is started, so a problem fails nothing yet
    subscribe: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()

    @property
    def wrong(self) -> bool:
        """Whether the check as a whole fails for it."""
        return self.problem is not None and self.enabled and not self._passing

    @property
    def _passing(self) -> bool:
        """Whether this may be right all the same: an external server that is down."""
        return self.waiting and self.name == "agentd"


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="agentd.toml or one agent's TOML file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check, print what was found, and exit 1 when something is wrong."""
    paths = discover()
    if args.file is None:
        agents = sorted(paths.agents_d.glob("[!.]*.toml"))
        checked = [_daemon(paths.daemon_file), *(_agent(file.stem, paths) for file in agents)]
    elif not args.file.is_file():
        raise UsageError("there is no such file", where=str(args.file))
    elif args.file.stem == "agentd":
        checked = [_daemon(args.file)]
    else:
        with _home_for(args.file.resolve(), paths) as home:
            checked = [_agent(args.file.stem, home)]
    warnings = [(f"agents wake each other: {' -> '.join(c)}", c) for c in cycles(checked)]
    if args.json:
        print_json(_document(checked, warnings))
    else:
        _print(checked, [what for what, _ in warnings], paths)
    return Exit.FAILED if any(item.wrong for item in checked) else Exit.OK


def cycles(checked: Sequence[Checked]) -> list[list[str]]:
    """Return each ring of agents that can wake each other for ever, as names, the first repeated.

    An agent does not receive its own events, so a ring has at least two members.
    """
    edges = {
        a.name: sorted(
            b.name
            for b in checked
            if b.name != a.name and any(_wanted(t, b.subscribe) for t in a.publishes)
        )
        for a in checked
    }
    found: dict[frozenset[str], list[str]] = {}
    for start in edges:
        ring = _way_back(start, edges)
        if ring:
            found.setdefault(frozenset(ring), ring)
    return list(found.values())


def _wanted(event_type: str, subscribe: Sequence[str]) -> bool:
    return any(
        event_type.startswith(item[:-1]) if item.endswith(".*") else event_type == item
        for item in subscribe
    )


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


def _daemon(file: Path) -> Checked:
    from agentd.config import load_daemon

    try:
        config = load_daemon(file).model
    except ConfigError as error:
        return Checked("agentd", error)
    if config.url is None:
        return Checked("agentd", None)
    from agentd.llm.listing import look

    seen = look(config)
    if (wrong := seen.error) is not None:
        problem = ConfigError(wrong.what, where=wrong.where or "[model] url", hint=wrong.hint)
        # A server that is down is no mistake of this file.
        return Checked("agentd", problem, waiting=not seen.wrong)
    unknown = seen.unknown(config)
    hint = "set it to one of these, unless the server takes any name"
    what = ConfigError(unknown, where="[model] name", hint=hint)
    return Checked("agentd", what if unknown else None, waiting=True)


def _agent(name: str, paths: Paths) -> Checked:
    from agentd.admission.admit import Waiting, admit
    from agentd.admission.version import load_version

    try:
        # A module may print while it is imported; stdout is ours, and JSON perhaps.
        with redirect_stdout(sys.stderr):
            accepted = admit(name, paths)
            publishes = tuple(load_version(accepted.folder).publishes)
    except ConfigError as error:
        enabled = _enabled(paths.agents_d / f"{name}.toml")
        return Checked(name, error, waiting=isinstance(error, Waiting), enabled=enabled)
    config = accepted.config
    return Checked(
        name, None, enabled=config.enabled, subscribe=config.subscribe, publishes=publishes
    )


def _enabled(file: Path) -> bool:
    from agentd.config import load_agent

    try:
        return load_agent(file).enabled
    except ConfigError:
        return True


@contextmanager
def _home_for(file: Path, paths: Paths) -> Iterator[Paths]:
    """Yield the paths in which `file` is an agent's configuration.

    A draft that lies elsewhere is checked in a throw-away home beside the user's own modules.
    """
    if file.parent == paths.agents_d.resolve():
        yield paths
        return
    with tempfile.TemporaryDirectory(prefix="agentd-check-") as folder:
        home = replace(paths, user=Path(folder), data=Path(folder))
        home.agents_d.mkdir(parents=True)
        shutil.copy(file, home.agents_d / file.name)
        home.agents.symlink_to(paths.agents)
        home.baml_src.symlink_to(paths.baml_src)
        yield home


def _document(
    checked: Sequence[Checked], warnings: Sequence[tuple[str, list[str]]]
) -> dict[str, Any]:
    problems = [
        {
            "name": item.name,
            "where": item.problem.where,
            "what": item.problem.what,
            "hint": item.problem.hint,
            "waiting": item.waiting,
            "enabled": item.enabled,
        }
        for item in checked
        if item.problem
    ]
    return {
        "ok": not any(item.wrong for item in checked),
        "checked": [item.name for item in checked],
        "problems": problems,
        "warnings": [{"what": what, "agents": agents} for what, agents in warnings],
    }


def _print(checked: Sequence[Checked], warnings: Sequence[str], paths: Paths) -> None:
    width = max(len(item.name) for item in checked if len(item.name) <= NAME_MAX)
    for item in checked:
        name = f"{plain(item.name):{width}}"
        if item.problem is None:
            verdict = colour("ok", GREEN) + ("" if item.enabled else ", disabled")
            print(f"{name}  {verdict}")
            continue
        verdict = colour("waits", YELLOW) if item.waiting else colour("wrong", RED)
        if not item.enabled:
            verdict = "disabled; to be corrected before it is enabled:"
        print(f"{name}  {verdict}")
        for key in ("where", "what", "hint"):
            if value := getattr(item.problem, key):
                print(f"{'':{width}}    {key:5}  {plain(value)}")
    for warning in warnings:
        print(f"{colour('warning', YELLOW)}: {warning}")
    if len(checked) == 1 and checked[0].name == "agentd" and not paths.agents_d.is_dir():
        print(f"no agents yet: {paths.agents_d} is created by the first `agentd run`")
