"""`python -m agentd.config DIR`: write the JSON Schemas of both kinds of configuration files."""

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from agentd.config.agent import AgentConfig
from agentd.config.daemon import DaemonConfig


def schemas() -> dict[str, str]:
    """Return the JSON Schema files shipped beside the configuration, by file name.

    Editors use them (`#:schema ../agent.schema.json`). `python -m agentd.config DIR` writes them.
    """
    models: dict[str, type[BaseModel]] = {
        "agent.schema.json": AgentConfig,
        "agentd.schema.json": DaemonConfig,
    }
    return {
        name: json.dumps(model.model_json_schema(), indent=2) + "\n"
        for name, model in models.items()
    }


if __name__ == "__main__":
    for file_name, text in schemas().items():
        (Path(sys.argv[1]) / file_name).write_text(text)
