"""What a person wrote, pulled and started: configuration, model, daemon, LaunchAgent."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentd.bus.wake import socket_path
from agentd.config.agent import load_agent
from agentd.config.agent_files import agent_names, overlooked
from agentd.config.daemon import DaemonConfig, ModelConfig, load_daemon
from agentd.config.secret_names import secret_names
from agentd.config.secret_values import secret_value
from agentd.doctor.finding import Finding, ok, problem, warning
from agentd.errors import AgentdError, ConfigError, NotRunning, StorageError, shown
from agentd.events import DAEMON
from agentd.llm.listing import look
from agentd.macos import launchctl, launchd
from agentd.models import store
from agentd.paths import Paths
from agentd.supervisor.client import last_failure, query, unreachable


def configuration(paths: Paths) -> tuple[DaemonConfig, int, list[Finding]]:
    """Return the configuration in force, how many agents there are, and what is wrong with them."""
    findings = []
    try:
        config = load_daemon(paths.daemon_file)
    except ConfigError as error:
        config = DaemonConfig()
        findings.append(problem("configuration", f"{error.where}: {error.what}", error.hint))
    try:
        names = agent_names(paths.agents_d)
    except OSError:
        names = []  # there is none yet; one that cannot be read is the daemon's to tell
    for name in names:
        try:
            load_agent(paths.agents_d / f"{name}.toml")
        except ConfigError as error:
            findings.append(problem("configuration", f"{error.where}: {error.what}", error.hint))
    if not findings:
        hint = "`agentd check` also looks at their modules and prompts"
        findings.append(ok("configuration", f"agentd.toml and {len(names)} agents are right", hint))
    for item in overlooked(paths):
        findings.append(warning("files", f"{shown(str(item.path))}: {item.what}", item.hint))
    return config, len(names), findings


def secrets(paths: Paths, config: DaemonConfig) -> Iterator[Finding]:
    """Look for the secrets that configuration names."""
    named = dict.fromkeys(secret_names(config.model_dump(mode="json")), paths.daemon_file)
    with suppress(OSError):
        for file in (paths.agents_d / f"{name}.toml" for name in agent_names(paths.agents_d)):
            with suppress(ConfigError):  # told elsewhere
                agent = load_agent(file)
                named |= dict.fromkeys(agent.secrets if agent.enabled else (), file)
    for name, file in sorted(named.items()):
        try:
            secret_value(name, paths)
        except ConfigError as error:  # the daemon's environment may have it
            yield warning("secrets", f"{file}: {error.what}", error.hint)
        else:
            yield ok("secrets", f"{name} is there")


def model(paths: Paths, config: DaemonConfig) -> Iterator[Finding]:
    """Look whether the model is there."""
    if config.model.url is not None:
        yield _external(config.model)
        return
    try:
        folder = store.resolve(config.model.name, paths.models)
    except ConfigError as error:
        yield problem("model", error.what, error.hint)
    else:
        yield ok("model", f"{config.model.name} is in {folder}")


def _external(config: ModelConfig) -> Finding:
    seen = look(config)
    server = f"the external server {config.url}"
    if seen.error is not None:
        return problem("model", f"{server}: {seen.error.what}", seen.error.hint)
    if unknown := seen.unknown(config):
        return warning("model", f"{server}: {unknown}", "set [model] name to one of these")
    return ok("model", f"{server} answers")


def daemon(paths: Paths) -> Iterator[Finding]:
    """Look whether the daemon runs, and what it says of itself."""
    try:
        document = query(paths)
    except NotRunning as error:
        if unreachable(paths) is not None:
            yield problem("daemon", f"{error.where}: {error.what}", error.hint)
            return
        failure = last_failure(paths)
        if failure is None:
            yield ok("daemon", "is not running", "`agentd run`, or `agentd start`")
        else:
            yield problem("daemon", f"the last run failed: {failure['what']}", failure["hint"])
        return
    except StorageError as error:
        yield problem("daemon", error.what, error.hint)
        return
    yield ok("daemon", f"runs, pid {document['pid']}")
    for name, found in (
        ("configuration", document.get("problem")),
        ("privacy", document.get("refused_folder")),
        ("storage", document.get("storage", {}).get("problem")),
        ("model", document["model"].get("problem")),
    ):
        if found:
            yield problem(name, f"{found['where']}: {found['what']}", found["hint"])
    if found := (document.get("workers") or {}).get("problem"):
        yield warning("workers", found["what"], found["hint"])
    running = [agent["name"] for agent in document["agents"] if agent["state"] == "RUNNING"]
    sockets = {name: socket_path(paths.wake, name) for name in (DAEMON, *running)}
    if deaf := [name for name, path in sockets.items() if not path.is_socket()]:
        hint = "made again within seconds; until then events are found at the next poll"
        yield warning("wake-up", f"removed sockets in {paths.wake}: {', '.join(deaf)}", hint)
    resting = [agent for agent in document["agents"] if agent["state"] in ("PARKED", "INVALID")]
    for agent in resting:
        then = (
            f"`agentd resume {agent['name']}`" if agent["state"] == "PARKED" else "correct its file"
        )
        hint = f"`agentd status {agent['name']}` tells more; then {then}"
        yield warning("agents", f"{agent['name']} is {agent['state']}: {agent['reason']}", hint)


def agent_file(paths: Paths) -> Iterator[Finding]:
    """Look at the LaunchAgent, where there is launchd."""
    if not launchctl.available():
        return
    text = launchd.render(paths, launchd.program())
    try:
        service = launchctl.Service(Path.home(), text, foreground="")
        installed, loaded = service.installed, service.loaded()
    except AgentdError as error:
        yield warning("launchd", error.what, error.hint)
        return
    if installed and (found := launchd.kept_from(paths)) is not None:
        folder, hint = found
        yield warning("privacy", f"{folder}: macOS keeps services out of this folder", hint)
    if not installed:
        yield ok("launchd", "is not set up to start agentd", "`agentd install`")
    elif not service.current:
        hint = "`agentd install` renews it"
        yield warning("launchd", f"{service.plist} is from another version or place", hint)
    elif not loaded:
        yield warning("launchd", f"{service.plist} is not loaded", "`agentd start`")
    else:
        yield ok("launchd", f"starts agentd at login: {service.plist}")
