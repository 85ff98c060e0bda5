"""Command lines of the children, and the check that comes before the admission.

Tests put small scripts in their place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentd.admission.precheck import Precheck, precheck
from agentd.config.daemon import DaemonConfig
from agentd.paths import Paths
from agentd.process.child import python


def _worker(name: str, version: str) -> list[str]:
    return python("agentd.worker", name, "--version", version)


def _forks() -> list[str]:
    return python("agentd.worker.forks")


def _model_server(fd: int, config: DaemonConfig) -> list[str]:
    model = config.model
    options = ["--fd", str(fd), "--model", model.name, "--log-level", config.logs.level]
    options += ["--queue", str(model.queue)]
    options += ["--call-deadline", f"{model.call_deadline.total_seconds():g}"]
    if model.cache_bytes is not None:
        options += ["--cache-bytes", str(model.cache_bytes)]
    options += ["--saved-cache-bytes", str(model.saved_cache_bytes)]
    if model.unload_after is not None:
        options += ["--unload-after", f"{model.unload_after.total_seconds():g}"]
    if model.context_window is not None:
        options += ["--window", str(model.context_window)]
    return python("agentd.model_server", *options)


def _fetcher(require: bool) -> list[str]:
    return python("agentd.fetcher", "require" if require else "checks")


def _watcher(require: bool, since: str, versions: Sequence[str]) -> list[str]:
    return python("agentd.watcher", "require" if require else "checks", since, *versions)


def _admission(name: str) -> list[str]:
    return python("agentd.admission", name)


def _mcp_host() -> list[str]:
    return python("agentd.mcp")


def _deliver() -> list[str]:
    return python("agentd.deliver")


def _hands() -> list[str]:
    return python("agentd.hands")


def _ui(fd: int) -> list[str]:
    return python("agentd.ui", str(fd))


def _command(words: Sequence[str]) -> list[str]:
    return python("agentd", *words)


@dataclass(frozen=True)
class Commands:
    """How each kind of child is started."""

    worker: Callable[[str, str], list[str]] = _worker  # agent's name, version's hash
    forks: Callable[[], list[str]] | None = _forks  # a server that forks what `worker` would start
    # The listening socket's descriptor, and what agentd.toml says.
    model_server: Callable[[int, DaemonConfig], list[str]] = _model_server
    fetcher: Callable[[bool], list[str]] = _fetcher  # whether its sandbox has to be whole
    # As the fetcher; since when the daemon runs; versions, as "NAME/HASH".
    watcher: Callable[[bool, str, Sequence[str]], list[str]] = _watcher
    admission: Callable[[str], list[str]] = _admission  # agent's name
    mcp_host: Callable[[], list[str]] = _mcp_host
    hands: Callable[[], list[str]] = _hands
    deliver: Callable[[], list[str]] = _deliver
    ui: Callable[[int], list[str]] = _ui  # the listening socket's descriptor
    command: Callable[[Sequence[str]], list[str]] = _command  # as a person types it
    precheck: Callable[[str, Paths], Precheck] = precheck  # before it, in a thread of our own
