"""The external model server that `[model] url` names."""

from agentd.clock import Clock
from agentd.config.daemon import ModelConfig
from agentd.errors import ModelMisconfigured
from agentd.llm import listing
from agentd.llm.address import Address
from agentd.llm.wire import Wire
from agentd.net.wait import Deadline, Passed

LIST_S = 5.0  # for a server to list its models


class ExternalServer:
    """Where it is, with its key, and the model's name there: its only one where none is named."""

    def __init__(self, config: ModelConfig, http: Wire, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._only: str | None = None  # the one model that it has, once asked

    def address(self) -> Address:
        """Return it; the key's file is read each time.

        Raises:
            ConfigError: the key cannot be read.
            ModelUnavailable, ModelMisconfigured, OSError, HTTPException, Stopped: see `models`.
        """
        config = self._config
        url = (config.url or "").rstrip("/")
        key = listing.read_key(config.api_key_file) if config.api_key_file else ""
        name = config.name if config.named else self._only_model(url, key) or config.name
        return Address(url, name, key)

    def doubt(self) -> None:
        """Ask anew: it may have another model by now."""
        self._only = None

    def _only_model(self, url: str, key: str) -> str | None:
        """Return the one model of the server; None: it does not say."""
        if self._only is None:
            deadline = Deadline(self._clock, LIST_S)
            try:
                names = listing.models(self._http, url, key, deadline)
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
