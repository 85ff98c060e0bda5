"""What a running supervisor says of itself and of the model."""

from collections.abc import Mapping
from typing import Any

from agentd.bus import Bus
from agentd.errors import ConfigError, NotRunning
from agentd.paths import Paths
from agentd.sessions.archive import Archive
from agentd.states import OFFSETS
from agentd.supervisor.client import query


def daemon_state(paths: Paths, *, use: bool = False) -> dict[str, Any] | None:
    """Return the running supervisor's own state, or None where none runs.

    `use`: with what its processes take.

    Raises:
        StorageError: one runs and does not answer.
    """
    try:
        return query(paths, use=use)
    except NotRunning:
        return None


def with_external(model: dict[str, Any], paths: Paths) -> dict[str, Any]:
    """Return the supervisor's entry of the model; an external server is asked how it is."""
    if not model.get("external"):
        return model
    from agentd.config.last_good import effective_config
    from agentd.llm.listing import describe

    try:
        config = effective_config(paths).model
    except ConfigError:
        return model  # what is wrong with agentd.toml is shown beside it
    return model if config.url is None else describe(model, config)


def labels_by(model: Mapping[str, Any], bus: Bus) -> str | None:
    """Return how labels are taken with this model; of an external one, as agents found out last."""
    return Archive(bus).labels_by() if model.get("external") else OFFSETS
