"""Asks an external model server which models it has: GET /models, one short look."""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd import secret_rules
from agentd.clock import SystemClock
from agentd.config.daemon import ModelConfig
from agentd.config.secret_names import secret_name
from agentd.config.secret_values import secret_value
from agentd.config.toml import as_text
from agentd.errors import AgentdError, ConfigError, ModelMisconfigured, ModelUnavailable
from agentd.llm import wire
from agentd.llm.faults import BadAnswer, Busy, check, json_value
from agentd.macos.privacy import network_hint
from agentd.net.exchange import BROKEN
from agentd.net.wait import Deadline, Passed
from agentd.paths import Paths, discover, expanded
from agentd.states import WorkerState
from agentd.whole import read_start

KEY_BYTES_MAX = 16_384  # of a key's file that are read
LOOK_S = 2.0  # for a command to wait for the server

NO_LIST = (404, 405, 501)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no request can name that model


def models(
    http: wire.Wire,
    url: str,
    key: str,
    deadline: Deadline,
    connect: wire.Connect | None = None,
) -> Sequence[str] | None:
    """Return the names of the server's models; None where it has no such list.

    `connect`: see `Wire.send`.

    Raises:
        ModelMisconfigured: a wrong key, a web page, a redirect, TLS that does not hold.
        ModelUnavailable: it is busy, or fails.
        Passed, OSError, HTTPException: see `Wire.send`.
    """
    headers = {"Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    with http.send("GET", f"{url}/models", deadline, headers=headers, connect=connect) as reply:
        if reply.status in NO_LIST:
            return None
        try:
            check(reply, False)
            body = reply.body()
        except (Busy, BadAnswer) as error:
            raise ModelUnavailable(
                f"the model server cannot be used: {error}", where=url
            ) from error
    if body.lstrip().startswith(b"<"):
        raise ModelMisconfigured(
            "the server answers a web page where its models should be listed",
            where="[model] url",
            hint="set it to where the server's API is: it ends in /v1 as a rule",
        )
    try:
        return _names(json_value(body))
    except BadAnswer as error:
        raise ModelMisconfigured(
            f"the server is no model server: {error}",
            where="[model] url",
            hint="is it OpenAI-compatible, with /v1 at the end as a rule?",
        ) from error


def _names(data: Any) -> Sequence[str] | None:
    """Read OpenAI's list, and what others make of it; None where nothing is named."""
    if isinstance(data, dict):
        data = data.get("data") or data.get("models")
    if not isinstance(data, list):
        return None
    entries = (item if isinstance(item, dict) else {"id": item} for item in data)
    names = (item.get("id") or item.get("name") or item.get("model") for item in entries)
    named = (name for name in names if isinstance(name, str) and name.strip())
    return list(dict.fromkeys(name for name in named if not _SURROGATE.search(name))) or None


@dataclass(frozen=True)
class Seen:
    """What one look at an external server came to."""

    models: Sequence[str] | None  # None: it has no such list, or an error
    error: AgentdError | None

    @property
    def wrong(self) -> bool:
        """Whether only a person can help: the server is there, or will never be."""
        return isinstance(self.error, ModelMisconfigured | ConfigError)

    def unknown(self, config: ModelConfig) -> str:
        """Say that the configured model is not among the server's; "" where it may be."""
        if not self.models or any(_same(config.name, name) for name in self.models):
            return ""
        if not config.named and len(self.models) == 1:
            return ""
        return f"it lists no model {config.name!r}; it has: {', '.join(self.models)[:300]}"


def look(config: ModelConfig, seconds: float = LOOK_S) -> Seen:
    """Ask the server of `[model] url`, within `seconds`, a name's lookup included."""
    seen: list[Seen | Exception] = [_silent(seconds)]

    def ask() -> None:
        try:
            seen.append(_look(config, seconds))
        except Exception as error:  # nobody else would hear of it
            seen.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()  # of its own: a lookup of a name knows no deadline
    asking.join(seconds)
    if isinstance(seen[-1], Exception):
        raise seen[-1]
    return seen[-1]


def describe(model: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Return the supervisor's entry of an external model, with what a look at it says."""
    seen = look(config)
    found: dict[str, Any] = {**model, "models": seen.models, "problem": None}
    if seen.models and not config.named and len(seen.models) == 1:
        found["name"] = seen.models[0]
    if seen.error is not None:
        state = WorkerState.PARKED if seen.wrong else WorkerState.WAITING
        problem = seen.error.document()
        return {**found, "state": state.value, "reason": problem["what"], "problem": problem}
    reason = seen.unknown(config) or ("" if seen.models else "it answers, and lists no models")
    return {**found, "state": WorkerState.RUNNING.value, "reason": reason}


def model_key(config: ModelConfig, paths: Paths) -> str:
    """Return the key of the server of `[model] url`, "" where it has none.

    Raises:
        ConfigError: it is nowhere, or cannot be read.
    """
    if config.api_key_file is not None:
        return read_key(config.api_key_file)
    name = secret_name(config.api_key)
    if name is None:
        return ""
    where, hint = f"[model] api_key = {config.api_key}", "keep the server's key there, alone"
    return _checked(secret_value(name, paths), where, hint)


def read_key(path: Path) -> str:
    """Return the key that `[model] api_key_file` holds.

    Raises:
        ConfigError: it cannot be read, or holds something else. Nothing at all is no key: "".
    """
    where = f"[model] api_key_file = {path}"
    hint = "write the server's key into that file, and nothing else"
    try:
        key = as_text(read_start(expanded(path), KEY_BYTES_MAX), path).strip()
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError(what, where=where, hint=hint) from error
    except ConfigError as error:
        raise ConfigError(error.what, where=where, hint=hint) from error
    return _checked(key, where, hint)


def _checked(key: str, where: str, hint: str) -> str:
    if not key.isascii() or not key.isprintable():  # else it would end its header's line
        raise ConfigError("holds no key: it is not one line of ASCII", where=where, hint=hint)
    secret_rules.remember(key)
    return key


def _look(config: ModelConfig, seconds: float) -> Seen:
    url = (config.url or "").rstrip("/")
    try:
        key = model_key(config, discover())
    except ConfigError as error:
        if config.api_key is None:
            return Seen(None, error)
        what = f"cannot be asked from here: {error.what}"  # the daemon's environment may have it
        return Seen(None, ModelUnavailable(what, where=error.where, hint=error.hint))
    try:
        return Seen(models(wire.Wire(), url, key, Deadline(SystemClock(), seconds)), None)
    except AgentdError as error:
        return Seen(None, error)
    except Passed:
        return _silent(seconds)
    except BROKEN as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = network_hint(error) or "is it running?"
        return Seen(
            None, ModelUnavailable(f"the model server cannot be used: {why}", where=url, hint=hint)
        )


def _silent(seconds: float) -> Seen:
    return Seen(None, ModelUnavailable(f"it did not answer within {seconds:g} s"))


def _same(configured: str, listed: str) -> bool:
    """Whether a listed name is the configured one; Ollama adds a tag."""
    return listed == configured or listed.startswith(f"{configured}:")
