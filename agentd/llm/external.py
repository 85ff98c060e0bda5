"""The external model server that `[model] url` names."""

import socket
from functools import partial

from agentd import secret_rules
from agentd.clock import Clock
from agentd.config.daemon import ModelConfig
from agentd.errors import AgentdError, ConfigError, ModelMisconfigured, Stopped
from agentd.llm import listing
from agentd.llm.address import Address
from agentd.llm.wire import CONNECT_S, Connect, Wire
from agentd.net.wait import Deadline, Passed, Waiter
from agentd.paths import Paths
from agentd.process.stop import Cancel
from agentd.process.supervisor_link import SupervisorLink

LIST_S = 5.0  # for a server to list its models
KEY_S = 30.0  # for the supervisor to find the key: a person may have to unlock a Keychain
ADDRESSES = 4  # of one host that are tried, one after another


class ExternalServer:
    """Where it is, with its key, and the model's name there: its only one where none is named.

    Where there is a supervisor, it makes the connections: a worker's sandbox has no network.
    """

    def __init__(
        self,
        config: ModelConfig,
        http: Wire,
        clock: Clock,
        paths: Paths,
        link: SupervisorLink | None,
    ) -> None:
        self._config, self._http, self._clock = config, http, clock
        if link is not None and link.there:
            self._key = partial(_key_of_supervisor, link, http.cancel)
            self._connect: Connect | None = partial(_by_supervisor, link, http.cancel)
        else:
            self._key, self._connect = partial(listing.model_key, config, paths), None
        self._only: str | None = None  # the one model that it has, once asked

    def address(self) -> Address:
        """Return it; the key's file is read each time.

        Raises:
            ConfigError: the key cannot be read.
            ModelUnavailable, ModelMisconfigured, OSError, HTTPException, Stopped: see `models`.
        """
        config = self._config
        url, key = (config.url or "").rstrip("/"), self._key()
        name = config.name if config.named else self._only_model(url, key) or config.name
        return Address(url, name, key, connect=self._connect)

    def doubt(self) -> None:
        """Ask anew: it may have another model by now."""
        self._only = None

    def _only_model(self, url: str, key: str) -> str | None:
        """Return the one model of the server; None: it does not say."""
        if self._only is None:
            deadline = Deadline(self._clock, LIST_S)
            try:
                names = listing.models(self._http, url, key, deadline, self._connect)
            except Passed as error:
                raise TimeoutError(f"no list of models within {LIST_S:g} s") from error
            if names is not None and len(names) != 1:
                raise ModelMisconfigured(
                    f"the model server has {len(names)} models: {', '.join(names)[:300]}",
                    where="[model] name",
                    hint="name the one to use",
                )
            self._only = names[0] if names else None
        return self._only


def _key_of_supervisor(link: SupervisorLink, cancel: Cancel) -> str:
    """Return the key that the supervisor read. Raises as `ExternalServer.address`."""
    try:
        key = str(link.ask({"ask": "model_key"}, KEY_S, cancel)[0]["key"])
    except (ConfigError, Stopped):
        raise
    except AgentdError as error:
        raise ConnectionError(error.what) from error
    secret_rules.remember(key)
    return key


def _by_supervisor(link: SupervisorLink, cancel: Cancel, waiter: Waiter) -> socket.socket:
    """Return a connection to `[model] url` that the supervisor made.

    Raises:
        OSError: it could make none.
        Stopped, Passed: see `Waiter.left`.
    """
    seconds = min(ADDRESSES * CONNECT_S, waiter.left())
    try:
        answer, fds = link.ask({"ask": "connection"}, seconds, cancel)
    except Stopped:
        raise
    except AgentdError as error:
        raise ConnectionError(error.what) from error
    if not fds:
        raise OSError(answer["errno"], answer["why"])
    sock = socket.socket(fileno=fds[0])
    sock.setblocking(False)
    return sock
