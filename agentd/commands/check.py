"""`agentd check [FILE]`: is the configuration right, with everything that the agents need?"""

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.commands.checked import Checked
from agentd.commands.output import GREEN, RED, YELLOW, colour, plain, print_facts, print_json, say
from agentd.commands.subscriptions import cycles, unheard
from agentd.config.agent_files import TOML, agent_names, overlooked
from agentd.config.odd_files import no_file
from agentd.config.suggest import did_you_mean
from agentd.errors import ConfigError, StorageError, UsageError, shown
from agentd.paths import Paths, discover
from agentd.states import Exit

if TYPE_CHECKING:
    from agentd.supervisor.checks import Checks

EXAMPLES = """example:
  agentd check
  agentd check ~/drafts/repo_review.toml
  agentd check --accept git     # tools of the MCP server git changed: shows how, and accepts them

Each agent is checked the way the daemon does before it starts it, within 30 s: keys and values, its
module, its .baml, its parameters and permissions. While the daemon runs, its model says whether it
tells an agent's labels apart. Also wrong is what can never work, such as a
relative folder in `read`. Cycles among subscriptions are warnings, and so is what may be meant: a
folder that is not there, an agent that nothing wakes, a file that is not read for its name. What is
wrong with a disabled agent is shown and fails nothing. Exits 1 when something is wrong, or waits
for a module or .baml that is not there.

An agent's decisions that wait for your yes are named, with the reason: see `agentd answer`.

--json prints one object: ok, checked [names], asks {name: {decision: why}}, problems [{name, where,
what, hint, waiting, enabled}], warnings [{what, agents}]; with --accept, which then asks nothing,
{done: "accepted" or null, servers, differences {server: [lines]}}."""


NAME_MAX = 48  # characters; a longer file name is no agent's, and makes no column


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="agentd.toml or one agent's TOML file"
    )
    parser.add_argument(
        "--accept",
        nargs="?",
        const="",
        metavar="SERVER",
        help="accept the tools of an MCP server, or of all, as they are now",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check, print what was found, and exit 1 when something is wrong."""
    from agentd.commands.advice import (
        cautions,
        daemon_advice,
        known_window,
        lacking,
        spare,
        too_little,
        unlikely,
    )

    paths = discover()
    if args.accept is not None:
        from agentd.commands.mcp_checks import accept

        return accept(args.accept or None, paths, as_json=args.json)
    warnings: list[tuple[str, list[str]]] = []
    if args.file is None:
        checked = [_daemon(paths.daemon_file, paths), *_agents(_names(paths), paths)]
        warnings += [(what, ["agentd"]) for what in daemon_advice(paths.daemon_file, paths)]
        warnings += unheard([item for item in checked if item.enabled])
        warnings += [
            (f"{shown(str(item.path))}: {item.what}; {item.hint}", []) for item in overlooked(paths)
        ]
    elif not args.file.is_file():
        raise _no_file(args.file, paths)
    elif args.file.stem == "agentd":
        checked = [_daemon(args.file, paths)]
        warnings += [(what, ["agentd"]) for what in daemon_advice(args.file, paths)]
    elif args.file.suffix != TOML:
        raise UsageError(
            f"the name of an agent's file ends in {TOML}",
            where=str(args.file),
            hint="rename it: the daemon reads no other",
        )
    else:
        with _home_for(args.file, paths) as home:
            checked = [_at(args.file, home, item) for item in _agents([args.file.stem], home)]
    checked, notes = _told_apart(checked, paths)
    warnings += notes
    window = known_window(paths)
    for item in checked:
        if item.config and item.enabled and item.problem is None:
            told = [
                *unlikely(item.config),
                *spare(item.config),
                *lacking(item.config, paths),
                *too_little(item.config, item.decisions, window),
            ]
            warnings += [(f"{item.name}: {what}", [item.name]) for what in told]
        if item.config:
            warned = cautions(item.name, item.config.permissions, paths)
            warnings += [(what, [item.name]) for what in warned]
    warnings += [(f"agents wake each other: {' -> '.join(c)}", c) for c in cycles(checked)]
    if args.json:
        print_json(_document(checked, warnings))
    else:
        _print(checked, [what for what, _ in warnings], paths)
    return Exit.FAILED if any(item.wrong for item in checked) else Exit.OK


def _told_apart(
    checked: Sequence[Checked], paths: Paths
) -> tuple[list[Checked], list[tuple[str, list[str]]]]:
    """Ask the model server whether it can tell the labels of each agent apart."""
    from agentd.commands.alike_labels import alike

    found, notes = [], list[tuple[str, list[str]]]()
    for item in checked:
        problem, note = item.problem, ""
        if problem is None and item.enabled:
            problem, note = alike(item.labels, paths, str(paths.agents_d / f"{item.name}{TOML}"))
        found.append(replace(item, problem=problem))
        notes += [(f"{item.name}: {note}", [item.name])] if note else []
    return found, notes


def _no_file(file: Path, paths: Paths) -> UsageError:
    """Say why nothing can be checked: an agent's name and a folder are no files."""
    names, name = _names(paths), str(file)
    if name in names:
        meant = f"an agent is checked by its file: `agentd check {paths.agents_d / name}{TOML}`"
        return UsageError("an agent, and no file", where=name, hint=meant)
    if file.is_dir():
        all_of_it = "name a file in it; `agentd check` alone checks all that the daemon reads"
        return UsageError(no_file(file), where=name, hint=all_of_it)
    return UsageError(f"{no_file(file)}{did_you_mean(name, names)}", where=name)


def _names(paths: Paths) -> list[str]:
    try:
        return agent_names(paths.agents_d)
    except FileNotFoundError:
        return []


def _daemon(file: Path, paths: Paths) -> Checked:
    from agentd.commands.advice import daemon_problem
    from agentd.config.daemon import load_daemon

    try:
        config = load_daemon(file)
    except ConfigError as error:
        return Checked("agentd", error)
    problem = daemon_problem(config, file, paths)
    if problem is not None or config.model.url is None:
        return Checked("agentd", problem)
    from agentd.llm.listing import look

    seen = look(config.model)
    if (wrong := seen.error) is not None:
        problem = ConfigError(wrong.what, where=wrong.where or "[model] url", hint=wrong.hint)
        # A server that is down is no mistake of this file.
        return Checked("agentd", problem, waiting=not seen.wrong)
    unknown = seen.unknown(config.model)
    hint = "set it to one of these, unless the server takes any name"
    what = ConfigError(unknown, where="[model] name", hint=hint)
    return Checked("agentd", what if unknown else None, waiting=True)


def _agents(names: Sequence[str], paths: Paths) -> list[Checked]:
    """Check agents as the daemon does: each in a process of its own, and not for ever."""
    from agentd.clock import SystemClock
    from agentd.process.child import python
    from agentd.supervisor.argv import Commands
    from agentd.supervisor.checks import Checks
    from agentd.supervisor.children import Reaper

    with tempfile.TemporaryDirectory(prefix="agentd-check-") as folder:
        # Locks of our own: a check of the same agent by the daemon must not end ours, nor ours it.
        apart = replace(paths, run=Path(folder))
        apart.locks.mkdir()
        home = [str(paths.user)] if paths.user == paths.data else []  # AGENTD_HOME, or a draft's
        commands = Commands(admission=lambda name: python("agentd.admission", name, *home))

        async def ask() -> list[Checked]:
            reaper = Reaper(clock := SystemClock())
            reaper.attach(asyncio.get_running_loop())
            checks = Checks(apart, commands, reaper, clock)
            return await asyncio.gather(*(_agent(name, paths, checks) for name in names))

        return asyncio.run(ask())


async def _agent(name: str, paths: Paths, checks: "Checks") -> Checked:
    from agentd.commands.advice import agent_problem
    from agentd.config.agent import load_agent

    file = paths.agents_d / f"{name}.toml"
    found = await checks.check(name, first=False)
    if found.problem is not None:
        if found.again and not found.waiting:
            raise StorageError(**found.problem)
        error = ConfigError(**found.problem)
        return Checked(shown(name), error, waiting=found.waiting, enabled=found.enabled)
    try:
        config = load_agent(file)
    except ConfigError as error:  # changed this moment
        return Checked(name, error)
    return Checked(
        name,
        agent_problem(config, file),
        enabled=config.enabled,
        subscribe=config.subscribe,
        publishes=found.publishes,
        decisions=found.decisions,
        labels=found.labels,
        asks=found.asks,
        config=config,
    )


@contextmanager
def _home_for(file: Path, paths: Paths) -> Iterator[Paths]:
    """Yield the paths in which `file` is an agent's configuration.

    A draft that lies elsewhere is checked in a throw-away home beside the user's own modules.
    """
    if file.parent.resolve() == paths.agents_d.resolve():
        yield paths
        return
    with tempfile.TemporaryDirectory(prefix="agentd-check-") as folder:
        home = replace(paths, user=Path(folder), data=Path(folder))
        home.agents_d.mkdir(parents=True)
        shutil.copy(file, home.agents_d / file.name)
        home.agents.symlink_to(paths.agents)
        home.baml_src.symlink_to(paths.baml_src)
        home.mcp.symlink_to(paths.mcp)  # what was accepted holds for a draft, too
        if paths.daemon_file.exists():
            home.daemon_file.symlink_to(paths.daemon_file)
        yield home


def _at(file: Path, home: Paths, checked: Checked) -> Checked:
    """Return what was found with the places that a person knows, in those of a throw-away home."""
    if checked.problem is None or file.parent.resolve() == home.agents_d.resolve():
        return checked
    real = {
        str(home.agents_d / file.name): str(file),
        str(home.agents): str(discover().agents),
        str(home.baml_src): str(discover().baml_src),
    }
    texts = {key: getattr(checked.problem, key) for key in ("what", "where", "hint")}
    for place, instead in real.items():
        texts = {key: text.replace(place, instead) for key, text in texts.items()}
    return replace(checked, problem=ConfigError(**texts))


def _document(
    checked: Sequence[Checked], warnings: Sequence[tuple[str, list[str]]]
) -> dict[str, Any]:
    problems = [
        {
            "name": item.name,
            **item.problem.document(),
            "waiting": item.waiting,
            "enabled": item.enabled,
        }
        for item in checked
        if item.problem
    ]
    return {
        "ok": not any(item.wrong for item in checked),
        "checked": [item.name for item in checked],
        "asks": {item.name: dict(item.asks) for item in checked if item.asks},
        "problems": problems,
        "warnings": [{"what": what, "agents": agents} for what, agents in warnings],
    }


def _print(checked: Sequence[Checked], warnings: Sequence[str], paths: Paths) -> None:
    width = max(len(item.name) for item in checked if len(item.name) <= NAME_MAX)
    for item in checked:
        name = f"{plain(item.name):{width}}"
        if item.problem is None:
            verdict = colour("ok", GREEN) + ("" if item.enabled else ", disabled")
            say(f"{name}  {verdict}")
            for tool, why in item.asks.items():
                say(plain(f"{'':{width}}  asks you before it does {tool}: {why}"))
            continue
        verdict = colour("waits", YELLOW) if item.waiting else colour("wrong", RED)
        if not item.enabled:
            verdict = "disabled; to be corrected before it is enabled:"
        say(f"{name}  {verdict}")
        facts = {key: getattr(item.problem, key) for key in ("where", "what", "hint")}
        print_facts(facts, indent=width + 4)
    for warning in warnings:
        say(f"{colour('warning', YELLOW)}: {plain(warning)}")
    if len(checked) == 1 and checked[0].name == "agentd" and not paths.agents_d.is_dir():
        say(f"no agents yet: {paths.agents_d} is created by the first `agentd run`")
