"""Configuration files as strict models: unknown keys are errors, values never change.

`agent.py` and `daemon.py` are the two kinds of files, `toml.py` reads them; `duration.py`,
`wakes.py` (what wakes an agent), `watched.py` and `cron.py` are what stands in them, and
`timetable.py` tells when a schedule is due; `columns.py` is an agent's table [result],
`permissions.py` its [permissions]. `wording.py` and `suggest.py` say what is wrong and what may
have been meant. `agent_files.py` tells which files make agents, `odd_files.py` what is odd about
one, `key_lines.py` where in it a key stands, `last_good.py` keeps the last agentd.toml that was
right. `mcp_servers.py` are its [mcp.NAME], `delivery.py` is its [deliver]. `secret_names.py` are
secrets as they are written, `secret_values.py` finds them, `keychain.py` those of macOS.
`mail_account.py` is an agent's [accounts.NAME], `mail_url.py` reads its URL.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentd.config.agent import AgentConfig, Cron, Every, Limits, Permissions, load_agent
    from agentd.config.daemon import DaemonConfig, load_daemon
    from agentd.config.toml import Strict

__all__ = [
    "AgentConfig",
    "Cron",
    "DaemonConfig",
    "Every",
    "Limits",
    "Permissions",
    "Strict",
    "load_agent",
    "load_daemon",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: Pydantic's models take half a second, and durations need none."""
    for part in ("agent", "daemon", "toml"):
        if name in __all__ and hasattr(module := import_module(f"{__name__}.{part}"), name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
