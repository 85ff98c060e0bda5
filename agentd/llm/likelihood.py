"""Scores of our own model server: how likely items are after heads."""

from collections.abc import Mapping, Sequence

from agentd.agent import Scores
from agentd.errors import ModelError, ModelMisconfigured
from agentd.llm.endpoint import Endpoint


def likelihood(
    endpoint: Endpoint,
    heads: Sequence[str],
    items: Sequence[str],
    *,
    headers: Mapping[str, str],
    deadline_s: float,
) -> Scores:
    """Return how likely each item is after each head. The server takes `deadline_s` from admission.

    Raises:
        ModelMisconfigured: the server cannot score.
        ModelUnavailable, CallDeadline, ModelError, Stopped: see `LLM.score`.
    """
    asked = {"heads": list(heads), "items": list(items)}
    timed = {**headers, "X-Agentd-Deadline": str(deadline_s)}
    try:
        "".join([*heads, *items]).encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"a head or an item to score is no UTF-8: {error.reason}") from error
    said = endpoint.ask("/v1/score", asked, timed, deadline_s + endpoint.queue_wait_s)
    if said is None:
        raise ModelMisconfigured(
            "the model server cannot score",
            where="[model] url",
            hint="agentd's own model server can: leave [model] url out",
        )
    rows = said.get("scores")
    if not isinstance(rows, list) or [len(row) for row in rows] != [len(items)] * len(heads):
        raise ModelError("the model server's scores are not those of the heads and items")
    return Scores(tuple(heads), tuple(items), tuple(map(tuple, rows)), str(said.get("model")))
