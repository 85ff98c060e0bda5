"""Labels that a model cannot tell apart: they begin with the same token. Only its server knows."""

from collections.abc import Mapping, Sequence

from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError, ModelError, ModelUnavailable
from agentd.llm.address import fetch, own_address
from agentd.llm.endpoint import LEAST_CALL, Endpoint
from agentd.llm.faults import CallRefused
from agentd.llm.label_call import label_call
from agentd.paths import Paths

ANSWER_S = 10.0  # for a server that is busy, too
TOKENS = 16  # of an answer that nobody reads
ASKED = [{"role": "user", "content": LEAST_CALL}]

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
            body = label_call(ASKED, field, labels, max_tokens=TOKENS)
            endpoint.chat(body, {}, deadline_s=ANSWER_S, progress=lambda: None)
    except CallRefused as error:
        hint = "write one of them differently in the .baml file"
        return ConfigError(f"its labels: {error.what}", where=where, hint=hint), ""
    except (ModelUnavailable, ModelError):
        return None, NOT_KNOWN
    except ConfigError:
        return None, ""  # what is wrong with agentd.toml is told beside it
    return None, ""
