"""Which fields of a result a person may correct, and what may stand in them."""

from collections.abc import Mapping, Sequence

from agentd.config.agent import TASK, AgentConfig

LABEL = "label"  # what [params.labels] chooses
INTEREST, NONE = "interest", "none"  # what [params] interests ranks by, and no interest


def label_values(config: AgentConfig) -> Mapping[str, Sequence[str]]:
    """Return the labels by field that the model chose from, or words of the text.

    Of an agent in code there are none: its cases are written by hand.
    """
    if config.agent != TASK:
        return {}
    values = {name: column.known for name, column in config.result.items() if column.known}
    params = config.params
    if params.get("labels"):
        values[LABEL] = tuple(params["labels"])
    if params.get("interests"):
        values[INTEREST] = (*params["interests"], NONE)
    return values
