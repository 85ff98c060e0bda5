"""Turns a dropped TOML file, its module and its .baml into an accepted version folder.

versions/NAME/HASH/ holds copies of these and of the shared clients.baml and tools.baml, the
generated client and a manifest. It is keyed by content, built beside its place and renamed into it,
so a version is there whole or not at all.
Runs as `python -m agentd.admission NAME`: it runs code that a person has just written.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd import __version__
from agentd.admission.compile import BAML_VERSION, compile_client
from agentd.admission.declared import check_declared, check_labels
from agentd.admission.mcp_sources import mcp_sources
from agentd.admission.precheck import Waiting
from agentd.admission.scheduled import check_scheduled
from agentd.admission.source_files import find_sources
from agentd.admission.version import (
    CONFIG,
    FORMAT,
    MANIFEST,
    MODULE,
    USER_RAISES,
    Accepted,
    SourceFile,
    Version,
    accepted_in,
    digest_of,
    file_digest,
    make_version,
    user_error,
    verified_manifest,
)
from agentd.admission.whole_union import check_served, why_unfit
from agentd.agent import Kit
from agentd.approval.approval import policy_of
from agentd.config.agent import check_agent_name, validate_agent
from agentd.config.toml import parse_toml, read_small
from agentd.config.watched import Pattern
from agentd.errors import (
    AgentdError,
    ConfigError,
    PermissionRefused,
    ToolError,
    ToolsChanged,
    storage_errors,
)
from agentd.mcp.pins import Pins, ServerDown
from agentd.paths import HOME_VARIABLE, Paths, discover, private_folder
from agentd.process.heart import Heart
from agentd.states import Exit
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.outside_tools import all_tools
from agentd.tools.toolbox import Toolbox
from agentd.whole import put_in_place

BUILD_PREFIX = ".build-"


def admit(name: str, paths: Paths) -> Accepted:
    """Check agents.d/NAME.toml with all that it names, and return its version folder.

    Raises:
        Waiting: the module or the .baml file is not there yet.
        ConfigError: naming file, line or key, and the next step.
        StorageError: the versions' folder cannot be written.
    """
    toml = paths.agents_d / f"{name}.toml"
    check_agent_name(name, where=str(toml))
    own = SourceFile(toml, CONFIG, read_small(toml))
    config = validate_agent(parse_toml(own.data, toml), toml)
    sources = [own, *find_sources(config.agent, paths, str(toml))]
    draft = Accepted(name, "", "", Path(), config)
    sources += mcp_sources(draft, sources[1], toml, paths, Pins.of)
    digest = digest_of(
        FORMAT, __version__, BAML_VERSION, name, *[(s.place, s.data) for s in sources]
    )
    folder = paths.versions / name / digest
    with _locked(folder.parent):
        if (manifest := verified_manifest(folder)) is None:
            shutil.rmtree(folder, ignore_errors=True)
            manifest = _build(Accepted(name, digest, "", folder, config), sources)
        os.utime(folder)  # the newest ones are kept, see `prune_versions`
    check_served(manifest.get("unfit", ""), toml, paths)
    return accepted_in(folder, manifest, config)


def _build(wanted: Accepted, sources: list[SourceFile]) -> dict[str, Any]:
    """Check everything and write the folder; return its manifest. On an error nothing is left."""
    folder = wanted.folder
    build = Path(tempfile.mkdtemp(prefix=BUILD_PREFIX, dir=folder.parent))
    hint = "make room, or make the folder writable"
    try:
        with storage_errors(folder, hint, "the version cannot be written"):
            for source in sources:
                (build / source.place).parent.mkdir(mode=0o700, exist_ok=True)
                (build / source.place).write_bytes(source.data)
            version, found = _checked(replace(wanted, folder=build), sources)
            manifest = _manifest(version, found, sources)
            (build / MANIFEST).write_text(json.dumps(manifest, indent=1))
            _make_private(build)
            put_in_place(build, folder)
    except BaseException:
        shutil.rmtree(build, ignore_errors=True)
        raise
    return manifest


def _checked(draft: Accepted, sources: list[SourceFile]) -> tuple[Version, dict[str, Any]]:
    """Import the module, compile the prompts, and check that all of it fits together.

    Returns what the manifest says of the union as well: its classes, and its labels by field.
    """
    toml = sources[0].origin
    module = next(source for source in sources if source.place == MODULE)
    version = make_version(draft, module, toml)
    check_declared(version.agent, version.publishes, str(module.origin))
    _check_permissions(version, toml, module.origin)
    check_scheduled(version, sources[0])
    baml = {Path(s.place).name: s.origin for s in sources if s.place.endswith(".baml")}
    compile_client(draft.folder, baml)
    prompt = baml[f"{draft.config.agent}.baml"]
    tools, told = _check_prompt(version, module.origin, prompt)
    _check_union(version, tools, module.origin, prompt)
    accepts, known = version.agent.accepts, all_tools(version.mcp)
    classes = {*tools, *version.plans}
    policy = policy_of(draft.name, draft.config, classes, accepts, known, file=toml)
    return version, {"decisions": sorted(tools), **told, "asks": policy.why}


def _manifest(
    version: Version, found: Mapping[str, Any], sources: list[SourceFile]
) -> dict[str, Any]:
    """Return what stands beside a version's files: whose it is, and each one's digest."""
    draft = version.accepted
    code_hash = digest_of(
        BAML_VERSION,
        version.params.model_dump_json(),
        draft.config.done,
        draft.config.permissions.model_dump_json() + draft.config.approve.text,
        *[(s.place, s.data) for s in sources if s.place != CONFIG],
    )
    files = [p for p in draft.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {
        "format": FORMAT,
        "name": draft.name,
        "hash": draft.hash,
        "code_hash": code_hash,
        "agentd": __version__,
        "baml": BAML_VERSION,
        "publishes": sorted(version.publishes),
        **found,
        "mcp": {
            name: {"server": tool.server, "tool": tool.tool, "digest": tool.digest}
            for name, tool in version.mcp.items()
        },
        "from": {source.place: str(source.origin) for source in sources},
        "files": {str(p.relative_to(draft.folder)): file_digest(p) for p in sorted(files)},
    }


def _make_private(folder: Path) -> None:
    """Leave nothing in a version to others, whatever the umask: it is what runs."""
    for parent, folders, files in os.walk(folder):
        for name in folders:
            Path(parent, name).chmod(0o700)
        for name in files:
            Path(parent, name).chmod(0o600)


def _check_permissions(version: Version, toml: Path, module: Path) -> None:
    """Check that each tool's permission lists something, and what its own code reads is listed."""
    config = version.accepted.config
    writes = any("write" in REGISTRY[tool].needs for tool in version.uses if tool in REGISTRY)
    own = ("read", "write") if writes else ()  # its own folder needs no list
    for tool in version.uses:
        kinds = REGISTRY[tool].needs if tool in REGISTRY else ()
        if kinds and not any(kind in own or getattr(config.permissions, kind) for kind in kinds):
            needed = " or ".join(f"{kind} = [...]" for kind in kinds)
            raise ConfigError(
                f"{version.accepted.name} uses {tool}, which needs [permissions] {needed}",
                where=f"{toml}: permissions.{kinds[0]}",
                hint="list what it may touch; nothing is allowed unless listed",
            )

    decided = version.agent.uses if version.members is None else version.members
    if by_plan := [name for name in decided if name in REGISTRY and REGISTRY[name].by_plan]:
        raise ConfigError(
            f"{by_plan[0]} is no decision of a model: what it reads is for you to say",
            where=str(module if version.members is None else f"{toml}: params.tools"),
            hint="let the plan call it: `first` in a task agent's [params], else `plans`",
        )

    tools, missing = Toolbox(config.permissions), list[str]()
    try:
        watched = [Pattern.of(text).folder for text in config.watch]
        for path in (*version.agent.folders(version.params), *watched):
            try:
                tools.check_readable(path)
            except PermissionRefused:
                missing.append(os.path.realpath(path))
    except ToolError as error:
        raise ConfigError(error.what, where=f"{toml}: params", hint="name another") from error
    except USER_RAISES as error:
        raise user_error("cannot say what it reads", error, module) from error
    if missing:
        names = ", ".join(json.dumps(path) for path in dict.fromkeys(missing))
        raise ConfigError(
            f"{version.accepted.name} reads {names}, which [permissions] read does not list",
            where=f"{toml}: permissions.read",
            hint=f"if it may, write: read = [{names}]; nothing is allowed unless listed",
        )


def _check_prompt(
    version: Version, module: Path, prompt: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Build the union and render its prompt once, as the worker will at its first event.

    Returns the tools of the union's classes, by class, and what the manifest says of it besides.
    """
    from agentd.llm.baml import load_client
    from agentd.llm.union import Union

    client = load_client(version.client_dir)
    config = version.accepted.config
    try:
        kit = Kit(
            name=version.accepted.name,
            done=config.done,
            tools=Toolbox(config.permissions),
            memory={},
            types=client.types,
        )
        fixed = dict(version.agent(version.params, kit).prompt_arguments())
    except USER_RAISES as error:
        raise user_error("cannot be created", error, module) from error
    try:
        union = Union(client, version.function, version.members, version.arguments, version.mcp)
        union.frame({"done": config.done, **fixed})
    except ConfigError as error:
        place = f"{prompt}: {error.where}" if error.where else str(prompt)
        raise ConfigError(error.what, where=place, hint=error.hint) from error
    labels = check_labels(version.labels, union, str(module))
    told = {"labels": labels, "unfit": why_unfit(union)}
    return {name: union.tool(name) for name in union.members}, told


def _check_union(version: Version, tools: Mapping[str, str], module: Path, prompt: Path) -> None:
    """Check that the class's lists and the union's classes agree. `tools`: by class."""
    union, agent = set(tools), version.agent
    named = {tool: [name for name in tools if tools[name] == tool] for tool in tools.values()}
    for tool, classes in named.items():
        if len(classes) > 1:
            raise ConfigError(
                f'{" and ".join(classes)} have the same tool "{tool}": no answer tells them apart',
                where=f"{prompt}: function {version.function}",
                hint="give each class of the union a `tool` of its own",
            )
    if "Done" not in union:
        raise ConfigError(
            "its union has no Done",
            where=f"{prompt}: function {version.function}",
            hint='declare `class Done { tool "done" ... }` and return it among the others',
        )
    if unlisted := sorted((union & REGISTRY.keys()) - set(version.uses)):
        raise ConfigError(
            f"its union has {', '.join(unlisted)}, which `uses` does not list",
            where=str(module),
            hint=f"write `uses = ({', '.join(map(repr, unlisted))}, ...)`",
        )
    theirs = {*version.arguments, *agent.idempotent, *agent.reads} & version.mcp.keys()
    if theirs:
        raise ConfigError(
            f"`arguments`, `idempotent` or `reads` names {', '.join(sorted(theirs))}, "
            "a tool of an MCP server",
            where=str(module),
            hint="its server says what it takes and whether it only reads",
        )
    if unknown := sorted({*agent.arguments, *agent.idempotent, *agent.reads} - union):
        raise ConfigError(
            f"`arguments`, `idempotent` or `reads` names {', '.join(unknown)}, "
            "which is not in its union",
            where=str(module),
            hint=f"the union has {', '.join(sorted(union))}",
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an agent's versions folder, and clear what a killed build left in it."""
    with storage_errors(folder, "make the folder writable"):
        private_folder(folder)
        fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for left in folder.glob(f"{BUILD_PREFIX}*"):  # nobody else builds while we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(fd)


def main(argv: list[str], heart: Heart | None = None) -> int:
    """Admit the agent NAME, in HOME if that is given, and answer with the outcome as JSON.

    By `heart`; started by hand, on one line of standard output. Exit code 0, 75 or 78.
    """
    out = sys.stdout
    sys.stdout = sys.stderr  # the agent's module may print while it is imported
    name, *home = argv or [""]
    outcome: dict[str, Any] = {"name": name}
    try:
        version = admit(name, discover({HOME_VARIABLE: home[0]}) if home else discover())
    except AgentdError as error:
        code = error.exit_code
        waiting, changed = isinstance(error, Waiting | ServerDown), isinstance(error, ToolsChanged)
        outcome |= {"ok": False, "waiting": waiting, "changed": changed, "error": error.document()}
    else:
        code, config = Exit.OK, version.config
        outcome |= {
            "ok": True,
            "version": version.hash,
            "code_hash": version.code_hash,
            "folder": str(version.folder),
            "enabled": config.enabled,
            "start": config.start,
            "subscribe": config.subscribe,
            "triggers": config.triggers,
            "wakes": config.wakes,
            "publishes": version.publishes,
            "decisions": version.decisions,
            "labels": version.labels,
            "mcp": version.mcp,
            "asks": version.asks,
        }
    if heart is None or not heart.answer(outcome):
        print(json.dumps(outcome), file=out, flush=True)
    return int(code)
