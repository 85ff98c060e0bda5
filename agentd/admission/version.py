"""A version of an agent: a folder keyed by content, its manifest, and what its module says."""

import hashlib
import json
import linecache
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from agentd.admission.declared import check_list, check_models, check_params
from agentd.agent import Agent
from agentd.config.agent import AgentConfig, load_agent
from agentd.config.toml import config_error, unknown_key
from agentd.errors import BrokenVersion, ConfigError
from agentd.mcp.definitions import FILE, McpTool, decision_of, read

FORMAT = 3  # of a version folder; a change builds all of them anew
READABLE = (1, 2, FORMAT)  # what still runs: 1 does not say what it publishes, 2 not what it asks
MANIFEST = "manifest.json"
# Places in a version folder: the configuration and the module.
CONFIG, MODULE = "agent.toml", "agent.py"
UNKNOWN_PARAMS = "remove or correct it; what is no parameter belongs above [params]"
FUNCTION = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # a BAML function's name
# A person's code: whatever it raises is its fault, and it must not end the check.
USER_RAISES = (Exception, SystemExit)


@dataclass(frozen=True)
class Accepted:
    """A version as an idle worker needs it, nothing imported.

    While `admit` builds one it is a draft, with no `code_hash` yet.
    """

    name: str
    hash: str  # of everything: a change restarts the worker
    code_hash: str  # of code, prompt, params, done and tools: a cut session resumes only in it
    folder: Path
    config: AgentConfig
    publishes: tuple[str, ...] = ()  # event types
    decisions: tuple[str, ...] = ()  # the classes of its union, as far as its manifest says
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by "Class.field"
    mcp: tuple[str, ...] = ()  # MCP servers whose tools it names
    asks: Mapping[str, str] = field(default_factory=dict)  # decisions, and why


@dataclass(frozen=True)
class Version:
    """An accepted version, its module imported: what the worker runs."""

    accepted: Accepted
    agent: type[Agent[Any]]
    params: BaseModel
    client_dir: Path
    function: str
    uses: tuple[str, ...]  # shared tools that it may call
    members: tuple[str, ...] | None  # of its `Choice`; None where the .baml names the union
    publishes: Mapping[str, type[BaseModel]]
    arguments: Mapping[str, type[BaseModel]]  # what narrows the union's classes, tools included
    mcp: Mapping[str, McpTool]  # of `uses`, the tools of MCP servers, by class
    plans: tuple[str, ...] = ()  # of `uses`, those that it calls by its own plan, by class
    labels: frozenset[str] = frozenset()  # fields, as "Done.kind"


@dataclass(frozen=True)
class SourceFile:
    """A file that goes into a version: where it came from, and its bytes as read once."""

    origin: Path
    place: str  # relative to the version folder
    data: bytes


def read_version(folder: Path) -> Accepted:
    """Read an accepted version's manifest and configuration; imports nothing of it.

    Raises:
        BrokenVersion: it is incomplete or was changed since.
    """
    manifest = verified_manifest(folder)
    if manifest is None:
        raise _incomplete(folder)
    return accepted_in(folder, manifest, load_agent(folder / CONFIG))


def accepted_in(folder: Path, manifest: Mapping[str, Any], config: AgentConfig) -> Accepted:
    """Return the version that a folder holds, its manifest and configuration being read."""
    return Accepted(
        name=manifest["name"],
        hash=folder.name,
        code_hash=manifest["code_hash"],
        folder=folder,
        config=config,
        publishes=tuple(manifest.get("publishes", ())),
        decisions=tuple(manifest.get("decisions", ())),
        labels=manifest.get("labels", {}),
        mcp=tuple(sorted({tool["server"] for tool in manifest.get("mcp", {}).values()})),
        asks=manifest.get("asks", {}),
    )


def load_version(folder: Path) -> Version:
    """Read and import an accepted version.

    Raises:
        BrokenVersion: it is incomplete or was changed since.
        ConfigError: it cannot be imported.
    """
    return import_version(read_version(folder))


def import_version(accepted: Accepted) -> Version:
    """Import an accepted version that was read before.

    Raises:
        BrokenVersion: it is incomplete by now.
        ConfigError: it cannot be imported.
    """
    try:
        module = module_of(accepted.folder)
    except (OSError, ValueError) as error:
        raise _incomplete(accepted.folder) from error
    return make_version(accepted, module, accepted.folder / CONFIG)


def _incomplete(folder: Path) -> BrokenVersion:
    return BrokenVersion(
        "this version is incomplete or was changed",
        where=str(folder),
        hint="`agentd reload` builds it again",
    )


def module_of(folder: Path) -> SourceFile:
    """Return the module of an accepted version, under the name of the file it was copied from.

    So tracebacks and errors name what a person can open.
    """
    came = json.loads((folder / MANIFEST).read_bytes()).get("from", {})
    origin = Path(came.get(MODULE, folder / MODULE))
    return SourceFile(origin, MODULE, (folder / MODULE).read_bytes())


@dataclass(frozen=True)
class Declared:
    """What an agent's class says, with its parameters."""

    agent: type[Agent[Any]]
    params: BaseModel
    members: tuple[str, ...] | None
    publishes: Mapping[str, type[BaseModel]]
    arguments: Mapping[str, type[BaseModel]]
    plans: tuple[str, ...]  # tools
    labels: frozenset[str]

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools that it may use, as they are named: "ReadFile", "git.git_log"."""
        from agentd.tools.declared_tools import REGISTRY

        if self.members is None:
            known = self.agent.uses
        else:
            own = {"Done", *self.arguments} - REGISTRY.keys()
            known = tuple(name for name in self.members if name not in own)
        return tuple(dict.fromkeys([*known, *self.plans]))


def declared_by(accepted: Accepted, source: SourceFile, toml: Path) -> Declared:
    """Import the module and return what its class says for the configuration.

    Raises:
        ConfigError: it cannot be imported, or declares what makes no sense.
    """
    cls = _agent_class(accepted.name, source)
    where = str(source.origin)
    check_params(cls, where)
    params = _params(cls, accepted.config, toml, source.origin)
    try:
        members, publishes = cls.chosen(params), cls.published(params)
        arguments = cls.narrowed(params)
        plans, labels = tuple(cls.plans(params)), frozenset(cls.labelling(params))
    except USER_RAISES as error:
        raise user_error("cannot be created", error, source.origin) from error
    check_list("uses", cls.uses, where)
    check_list("chosen", () if members is None else members, where)
    check_models("arguments", arguments, where)
    return Declared(cls, params, members, publishes, arguments, plans, labels)


def make_version(accepted: Accepted, source: SourceFile, toml: Path) -> Version:
    """Import the module and put together what its class and the configuration say."""
    from agentd.tools.declared_tools import REGISTRY  # HTTP and all: not for a worker that waits

    declared = declared_by(accepted, source, toml)
    members = declared.members
    file = accepted.folder / FILE
    mcp = read(file.read_bytes()) if file.is_file() else {}
    uses = tuple(map(decision_of, declared.tools))
    known = REGISTRY.keys() | mcp.keys()
    unknown = [name for name in declared.tools if decision_of(name) not in known]
    if unknown:
        raise ConfigError(
            f"there is no tool {', '.join(unknown)}",
            where=str(toml) if members is not None else str(source.origin),
            hint=f"the tools are {', '.join(REGISTRY)}; one of an MCP server that agentd.toml "
            'has in [mcp.NAME] is written "NAME.tool"',
        )
    tools = {tool: REGISTRY[tool].args for tool in uses if tool in REGISTRY}
    return Version(
        accepted=accepted,
        agent=declared.agent,
        params=declared.params,
        client_dir=accepted.folder / "baml_client",
        function=declared.agent.function,
        uses=uses,
        members=None if members is None else tuple(map(decision_of, members)),
        publishes=declared.publishes,
        arguments={**tools, **declared.arguments},
        mcp={name: tool for name, tool in mcp.items() if name in uses},
        plans=tuple(map(decision_of, declared.plans)),
        labels=declared.labels,
    )


def _agent_class(name: str, source: SourceFile) -> type[Agent[Any]]:
    module = import_source(f"agentd_agents.{name}", source)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Agent)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(
            f"defines {len(found)} subclasses of Agent" if found else "defines no agent",
            where=str(source.origin),
            hint="define exactly one subclass of agentd.agent.Agent",
        )
    function = found[0].function
    if not isinstance(function, str) or not FUNCTION.fullmatch(function):
        raise ConfigError(
            f"{found[0].__name__} does not name its BAML function",
            where=str(source.origin),
            hint='set `function = "..."` to the function in its .baml file',
        )
    return found[0]


def import_source(name: str, source: SourceFile) -> ModuleType:
    """Run a module's source under a private name.

    From the bytes that were read once: the file may change again meanwhile.

    Raises:
        ConfigError: it does not compile or raises, naming the line.
    """
    module = ModuleType(name)
    module.__file__ = str(source.origin)
    sys.modules[name] = module  # dataclasses and Pydantic look their annotations up there
    # Tracebacks quote what runs, whatever became of the file meanwhile.
    lines = source.data.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[str(source.origin)] = (len(source.data), None, lines, str(source.origin))
    try:
        exec(compile(source.data, str(source.origin), "exec"), vars(module))
    except SyntaxError as error:
        raise ConfigError(
            f"does not compile: {error.msg}",
            where=f"{source.origin}:{error.lineno}" if error.lineno else str(source.origin),
            hint="correct that line",
        ) from error
    except USER_RAISES as error:
        raise user_error("does not import", error, source.origin) from error
    return module


def user_error(what: str, error: BaseException, origin: Path) -> ConfigError:
    """Return what a person's code raised as an error that names its line."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f":{f.lineno}" for f in reversed(frames) if f.filename == str(origin)), "")
    return ConfigError(
        f"{what}: {type(error).__name__}: {error}", where=f"{origin}{line}", hint="correct it"
    )


def _params(cls: type[Agent[Any]], config: AgentConfig, toml: Path, origin: Path) -> BaseModel:
    given = {**config.params, "result": config.result} if cls.takes_result else config.params
    if cls.takes_result and "result" in config.params:
        raise ConfigError(
            "params.result: unknown key", where=str(toml), hint="[result] is a table of its own"
        )
    if config.result and not cls.takes_result:
        raise ConfigError(
            "result: unknown table",
            where=str(toml),
            hint='[result] is for agents of configuration alone: agent = "task"',
        )
    try:
        params = cls.Params.model_validate(given)
    except ValidationError as error:
        wrong = config_error(error, toml, "params.", model=cls.Params)
        if config.params.keys() & AgentConfig.model_fields.keys() - cls.Params.model_fields.keys():
            wrong.hint = UNKNOWN_PARAMS
        raise wrong from error
    except USER_RAISES as error:  # a validator of its own
        raise user_error("cannot check its parameters", error, origin) from error
    known = cls.Params.model_fields
    names = known.keys() | {field.alias for field in known.values()}
    unknown = config.params.keys() - names
    if unknown and cls.Params.model_config.get("extra") != "allow":  # Pydantic ignores by default
        what = "; ".join(f"params.{key}: {unknown_key(key, known)}" for key in sorted(unknown))
        raise ConfigError(what, where=str(toml), hint=UNKNOWN_PARAMS)
    return params


def verified_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a version, or None if it is missing, incomplete or changed."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] not in READABLE or manifest["hash"] != folder.name:
            return None
        for place, digest in manifest["files"].items():
            if file_digest(folder / place) != digest:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the caller builds it anew, or says so
    return manifest


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of(*parts: Any) -> str:
    """Return a short digest of parts that are told apart: text, numbers, bytes, tuples of them."""
    digest = hashlib.sha256()
    for part in parts:
        data = digest_of(*part).encode() if isinstance(part, tuple) else part
        data = data if isinstance(data, bytes) else str(data).encode()
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:16]
