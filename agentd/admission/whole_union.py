"""Whether our own model server can hold an answer to all of a union: not only to each class.

Told with the check of a file, and not by a failure of each decision. What an external server takes
is for it to say.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from agentd.config.last_good import effective_config
from agentd.errors import ConfigError
from agentd.json_schema.bounds import MODEL_SERVER, Unfit
from agentd.json_schema.writing import bounded
from agentd.paths import Paths

if TYPE_CHECKING:
    from agentd.llm.union import Union


def why_unfit(union: "Union") -> str:
    """Return why the server refuses a decision among all classes of a union; "" where it does not.

    Kept in the version's manifest: who serves the model may change while the version stays.
    """
    try:
        bounded(union.schema(union.members), MODEL_SERVER)
    except Unfit as error:
        return f"its union of {len(union.members)} classes is refused: {error.reason}"
    return ""


def check_served(why: str, toml: Path, paths: Paths) -> None:
    """Check what `why_unfit` found against who serves the model.

    Raises:
        ConfigError: our own server does, and refuses the union.
    """
    if not why:
        return
    try:
        external = effective_config(paths).model.url is not None
    except ConfigError:  # agentd.toml is wrong, which is told by itself
        external = False
    if not external:
        raise ConfigError(
            f"the model server cannot hold an answer to it: {why}",
            where=str(toml),
            hint="name fewer tools (about 250 with three arguments fit), or give them to several "
            "agents; an external server ([model] url) may take them all",
        )
