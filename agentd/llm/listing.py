"""Asks an external model server which models it has: GET /models, one short look."""

from collections.abc import Sequence
from typing import Any

from agentd.errors import ModelMisconfigured, ModelUnavailable
from agentd.llm import wire
from agentd.llm.completion import BadAnswer, Busy, check, json_value

NO_LIST = (404, 405, 501)


def models(http: wire.Wire, url: str, key: str, deadline: wire.Deadline) -> Sequence[str] | None:
    """Return the names of the server's models; None where it has no such list.

    Raises:
        ModelMisconfigured: a wrong key, a web page, a redirect, TLS that does not hold.
        ModelUnavailable: it is busy, or fails.
        Passed, OSError, HTTPException: see `Wire.send`.
    """
    headers = {"Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    with http.send("GET", f"{url}/models", deadline, headers=headers) as reply:
        if reply.status in NO_LIST:
            return None
        try:
            check(reply, False, False)
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
    """Read OpenAI's list, and what others make of it."""
    if isinstance(data, dict):
        data = data.get("data") or data.get("models") or []
    if not isinstance(data, list):
        return None
    entries = (item if isinstance(item, dict) else {"id": item} for item in data)
    names = (item.get("id") or item.get("name") or item.get("model") for item in entries)
    return [name for name in names if isinstance(name, str)]
