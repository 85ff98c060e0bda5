"""Answers workers that ask for a secret: in their sandbox they can read none."""

from typing import Any

from agentd.admission.version import CONFIG
from agentd.config.agent import load_agent
from agentd.config.secret_values import secret_of
from agentd.paths import Paths
from agentd.process.jobs import in_thread
from agentd.supervisor.requests import Answer, Asker, Handler


def handler(paths: Paths) -> Handler:
    """Return what answers a worker that asks for a `secret` by its `name`.

    It gets those only that the accepted version of its file names.
    """

    async def answer(asker: Asker, document: dict[str, Any]) -> Answer:
        return {"value": await in_thread(_value, paths, asker, document.get("name"))}, ()

    return answer


def _value(paths: Paths, asker: Asker, name: object) -> str:
    return secret_of(load_agent(asker.folder(paths) / CONFIG).secrets, str(name), paths)
