"""What was accepted of MCP servers' tools, and what they say now.

`data/mcp/NAME.json` has the definitions that agents of this home were accepted with. A tool that an
agent names for the first time is accepted as it is; from then on a change is a person's to accept.
"""

import contextlib
import difflib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentd.config.mcp_servers import McpConfig
from agentd.config.suggest import did_you_mean, listed
from agentd.errors import AgentdError, ConfigError, ToolsChanged, storage_errors
from agentd.json_schema.canonical import json_digest
from agentd.paths import HOME_VARIABLE, Paths, private_folder
from agentd.process import environment
from agentd.process.child import python
from agentd.states import Exit
from agentd.whole import write_whole

ANSWER_S = 25.0  # for a server to be started and asked; a check may take 30 s
FRESH_S = 20.0  # for which an answer holds: agents are checked one after the other
FAILED_S = 3.0  # for which holds that there was none
Definitions = Mapping[str, dict[str, Any]]  # by tool


class ServerDown(ConfigError):
    """A server cannot be asked now which tools it has. That may pass."""

    exit_code = Exit.TEMPORARY


class Pins:
    """What is known of one server."""

    def __init__(self, name: str, config: McpConfig, paths: Paths) -> None:
        self.name, self._config, self._paths = name, config, paths
        self._accepted, self._seen = paths.mcp / f"{name}.json", paths.mcp / f"{name}.seen.json"

    def accepted(self) -> dict[str, dict[str, Any]]:
        """Return the accepted definitions by tool."""
        return dict(_document(self._accepted))

    def of(self, tools: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the definitions of tools as the server has them now, accepted.

        Raises:
            ServerDown: the server cannot be asked now.
            ConfigError: it has no such tool.
            ToolsChanged: one is not what was accepted.
        """
        with self._alone():
            now, accepted = self._now(FRESH_S), self.accepted()
            for tool in tools:
                if tool not in now:
                    raise ConfigError(
                        f"{self.name} has no tool {tool}{did_you_mean(tool, now)}",
                        where=f"[mcp.{self.name}]",
                        hint=f"it has {listed(now)}",
                    )
            changed = [
                t
                for t in tools
                if t in accepted and json_digest(accepted[t]) != json_digest(now[t])
            ]
            if changed:
                raise tools_changed(self.name, changed)
            if any(tool not in accepted for tool in tools):
                self._accept({**accepted, **{tool: now[tool] for tool in tools}})
        return {tool: now[tool] for tool in tools}

    def known(self, tools: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the accepted definitions of tools; no server is asked.

        Raises:
            ConfigError: one was never accepted here.
        """
        found = self.accepted()
        if missing := [tool for tool in tools if tool not in found]:
            raise ConfigError(
                f"{self.name}.{missing[0]} was never accepted here",
                where=f"[mcp.{self.name}]",
                hint="`agentd check` asks its server",
            )
        return found

    def difference(self) -> tuple[list[str], Definitions]:
        """Ask the server, and return how the tools that agents name differ from what was accepted.

        With it come the definitions that `accept` would take.

        Raises:
            ServerDown: the server cannot be asked now.
        """
        with self._alone():
            now, accepted = self._now(0.0), self.accepted()
        lines = [
            line
            for tool, was in accepted.items()
            for line in _difference(f"{self.name}.{tool}", was, now.get(tool))
        ]
        return lines, {tool: now[tool] for tool in accepted if tool in now}

    def accept(self, definitions: Definitions) -> None:
        """Accept these definitions: from now on they are what agents get."""
        with self._alone():
            self._accept(definitions)

    def forget_seen(self) -> None:
        """Let the next look ask the server, whatever it said a moment ago."""
        self._seen.unlink(missing_ok=True)

    def _accept(self, definitions: Definitions) -> None:
        _write(self._accepted, definitions)

    def _now(self, fresh_s: float) -> dict[str, dict[str, Any]]:
        """Return what the server says, now or within the last `fresh_s` seconds."""
        key = json_digest(self._config.model_dump(mode="json"))
        seen = _document(self._seen)
        age_s = time.time() - seen["at"] if seen.get("key") == key else -1.0
        if not 0 <= age_s < (min(fresh_s, FAILED_S) if "error" in seen else fresh_s):
            seen = {"key": key, **_ask(self.name, self._paths), "at": time.time()}
            _write(self._seen, seen)
        if "error" in seen:
            said = seen["error"]
            raise ServerDown(
                f"the MCP server {self.name} does not say which tools it has: {said['what']}",
                where=said["where"] or f"[mcp.{self.name}]",
                hint=said["hint"] or "it is asked again",
            )
        return dict(seen["tools"])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other checks of this home from asking the same server meanwhile."""
        with storage_errors(self._paths.mcp, "make the folder writable"):
            private_folder(self._paths.mcp)
            fd = os.open(self._paths.mcp / f"{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def tools_changed(server: str, tools: Sequence[str]) -> ToolsChanged:
    """Return the one clear reason why agents with these tools rest."""
    names = ", ".join(f"{server}.{tool}" for tool in tools)
    return ToolsChanged(
        f"the server describes {names} otherwise than it was accepted",
        where=f"[mcp.{server}]",
        hint=f"`agentd check --accept {server}` shows the difference and accepts it",
    )


def _ask(name: str, paths: Paths) -> dict[str, Any]:
    """Start the server, ask it, and end it with all that it started."""
    env = environment.for_child()
    if paths.user == paths.data:  # AGENTD_HOME, or a draft's
        env[HOME_VARIABLE] = str(paths.user)
    lifeline, hold = os.pipe()
    try:
        with subprocess.Popen(
            python("agentd.supervisor.mcp_discovery", name),
            stdin=lifeline,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        ) as process:
            os.close(lifeline)
            with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
                return dict(json.loads(process.communicate(timeout=ANSWER_S)[0]))
            process.kill()
    finally:
        os.close(hold)  # its guardian ends the group
    return {"error": AgentdError(f"it did not answer within {ANSWER_S:g} s").document()}


def _difference(name: str, was: Mapping[str, Any], now: Mapping[str, Any] | None) -> list[str]:
    old, new = ([] if told is None else _lines(told) for told in (was, now))
    names = f"{name} (accepted)", f"{name} (now)"
    return list(difflib.unified_diff(old, new, *names, lineterm=""))


def _lines(value: Any) -> list[str]:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).splitlines()


def _document(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(file.read_bytes()))
    return {}


def _write(file: Path, document: Mapping[str, Any]) -> None:
    with storage_errors(file, "make room, or make the folder writable"):
        write_whole(file, json.dumps(document, indent=1))
