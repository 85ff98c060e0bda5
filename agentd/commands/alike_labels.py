"""Labels that a model cannot tell apart: they begin with the same token. Only its server knows."""

from collections.abc import Mapping, Sequence

from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError, ModelError, ModelUnavailable
from agentd.llm.address import fetch, own_address
from agentd.llm.endpoint import LEAST_CALL, Endpoint
from agentd.llm.faults import CallRefused
from agentd.paths import Paths

ANSWER_S = 10.0  # for a server that is busy, too
TOKENS = 16  # of an answer that nobody reads

NOT_KNOWN = "whether the model tells its labels apart is known only while the daemon runs"

Fields = Mapping[str, Sequence[str]]  # labels by "Class.field"


def alike(fields: Fields, paths: Paths, where: str) -> tuple[ConfigError | None, str]:
    """Return what is wrong with labels for the model, and what to tell where that is not known."""
    try:
        if not fields or load_daemon(paths.daemon_file).model.url is not None:
            return None, ""  # another server's answers show by themselves whether it can
        address = own_address(paths)
        if fetch(address, "/ready", ANSWER_S) is None:
            return None, NOT_KNOWN
        endpoint = Endpoint(lambda: address, own=True, queue_wait_s=ANSWER_S)
        for field, labels in fields.items():
            endpoint.chat(_body(field, labels), {}, deadline_s=ANSWER_S, progress=lambda: None)
    except CallRefused as error:
        hint = "write one of them differently in the .baml file"
        return ConfigError(f"its labels: {error.what}", where=where, hint=hint), ""
    except (ModelUnavailable, ModelError):
        return None, NOT_KNOWN
    except ConfigError:
        return None, ""  # what is wrong with agentd.toml is told beside it
    return None, ""


def _body(field: str, labels: Sequence[str]) -> dict[str, object]:
    schema = {
        "type": "object",
        "properties": {field: {"enum": list(labels)}},
        "required": [field],
        "additionalProperties": False,
    }
    form = {"name": "labels", "strict": True, "schema": schema}
    return {
        "messages": [{"role": "user", "content": LEAST_CALL}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "response_format": {"type": "json_schema", "json_schema": form},
        "agentd_labels": {field: dict.fromkeys(labels, 0.0)},
    }
