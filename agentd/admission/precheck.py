"""Checks of an agent's file that the supervisor makes itself: most wrong files need no process.

Nothing of a person's code is run or imported here, and nothing is waited for: whatever lies in the
folder under a name that ends in .toml, it is a small text file that fits, or it is refused.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentd.config.agent import AGENT_NAME, check_agent_name, validate_agent
from agentd.config.odd_files import no_file
from agentd.config.suggest import listed
from agentd.config.toml import read_toml
from agentd.errors import ConfigError
from agentd.paths import Paths, shipped


class Waiting(ConfigError):
    """The module or the .baml file that the configuration names is not there yet."""


@dataclass(frozen=True)
class Precheck:
    """What the file says, and why it cannot be admitted as it is, if so."""

    module: str = ""  # its `agent = ...`, "" where that cannot be told
    enabled: bool = True
    problem: ConfigError | None = None
    folders: tuple[str, ...] = ()  # that an enabled agent may touch, or its parameters name

    @property
    def waiting(self) -> bool:
        """Whether it is not wrong, only incomplete."""
        return isinstance(self.problem, Waiting)


def precheck(name: str, paths: Paths) -> Precheck:
    """Check agents.d/NAME.toml by itself. Never raises for what it finds there."""
    toml = paths.agents_d / f"{name}.toml"
    seen = Precheck()
    try:
        check_agent_name(name, where=str(toml))
        table = read_toml(toml)
        module, enabled = table.get("agent"), table.get("enabled") is not False
        folders = tuple(_folders(table)) if enabled else ()
        seen = Precheck(module if isinstance(module, str) else "", enabled, folders=folders)
        find_module_and_prompt(validate_agent(table, toml).agent, paths, str(toml))
    except ConfigError as error:
        return replace(seen, problem=error)
    return seen


def _folders(table: Mapping[str, Any]) -> Iterator[str]:
    """Give the absolute paths that a file's permissions list, and those among its parameters."""
    permissions, params = table.get("permissions"), table.get("params")
    named: list[Any] = []
    if isinstance(permissions, dict):
        for key in ("read", "write"):
            roots = permissions.get(key)
            named += roots if isinstance(roots, list) else []
    if isinstance(params, dict):
        named += params.values()
    for text in named:
        if isinstance(text, str) and text.startswith(("/", "~/")) and "\0" not in text:
            yield text


def find_module_and_prompt(agent: str, paths: Paths, where: str) -> tuple[Path, Path]:
    """Return the module and the .baml file; a person's own go before the shipped ones.

    Raises:
        Waiting: one is not there yet; `where` names who wants it.
        ConfigError: `agent` is no name, such as a path.
    """
    if not AGENT_NAME.fullmatch(agent):  # also of a recording: it must not lead out of the folders
        raise ConfigError(
            f"{agent!r} cannot name a module of agents/",
            where=where,
            hint="use lower-case letters, digits and _, at most 48, a letter first",
        )
    module = own_or_shipped(f"{agent}.py", paths.agents, "agents")
    prompt = own_or_shipped(f"{agent}.baml", paths.baml_src, "baml_src")
    if module is not None and prompt is not None:
        return module, prompt
    missing, folder = (".py", paths.agents) if module is None else (".baml", paths.baml_src)
    file = folder / f"{agent}{missing}"
    if os.path.lexists(file):  # such as a link to what was moved away
        raise Waiting(no_file(file), where=str(file), hint="put a file there, or remove it")
    raise Waiting(
        f'agent = "{agent}" has no {folder.name}/{agent}{missing} yet',
        where=where,
        hint=f"put {agent}{missing} into {folder}, or correct the name; "
        f"there are {listed(_known(paths))}",
    )


def own_or_shipped(file: str, own: Path, kind: str) -> Path | None:
    """Return a person's own file of this name, else the shipped one, else None."""
    return next((p for p in (own / file, shipped() / kind / file) if p.is_file()), None)


def _known(paths: Paths) -> list[str]:
    folders = (paths.agents, shipped() / "agents")
    stems = {f.stem for d in folders if d.is_dir() for f in d.glob("*.py")}
    return sorted(stem for stem in stems if AGENT_NAME.fullmatch(stem))
