"""Labelled texts, read from TOML: the label that a model should choose for each.

[labelled]
instructions = "Label the note by its kind."
event = "note.written"         # a text comes as this event
field = "note"                 # in this field of its payload

[labelled.cases]               # held out: for figures alone
task = ["Renew passport", "Call the landlord"]
idea = ["A board game about rivers"]

[labelled.development]         # optional: to look at while words are chosen
[labelled.rule]                # optional: by which words a rule would choose
[labelled.phrases]             # optional: for scores, what a text of the label may follow
"""

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from agentd.config.toml import Strict, read_toml, validate
from agentd.config.wording import not_blank
from agentd.evaluate.cases import EventType
from agentd.states import LABELS_MAX, LABELS_MIN

LABELLED = "eval/labels"  # their folder in agentd's configuration

Text = Annotated[str, AfterValidator(not_blank)]
Texts = dict[str, Annotated[tuple[Text, ...], Field(min_length=1)]]  # by label


class Labelled(Strict):
    """A set of labelled texts. The labels stand in the order in which a model is shown them."""

    instructions: Text
    event: EventType
    field: str = Field(min_length=1)
    cases: Texts = Field(min_length=LABELS_MIN, max_length=LABELS_MAX)
    development: Texts = Field(default_factory=dict)
    rule: Texts = Field(default_factory=dict)
    phrases: dict[str, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_labels(self) -> Self:
        for key in ("development", "rule", "phrases"):
            given: Mapping[str, object] = getattr(self, key)
            if given and given.keys() != self.cases.keys():
                raise ValueError(f"{key} has not the labels of cases: {', '.join(self.cases)}")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        """A text of the development that is held out as well would flatter the figures."""
        texts = chain(*self.cases.values(), *self.development.values())
        text, times = Counter(texts).most_common(1)[0]
        if times > 1:
            raise ValueError(f"a text stands here {times} times: {text!r}")
        return self


class LabelledFile(Strict):
    """A file of labelled texts."""

    labelled: Labelled


def load_labelled(path: Path) -> Labelled:
    """Read a file of labelled texts.

    Raises:
        ConfigError: naming file, line or key, and the next step.
    """
    return validate(LabelledFile, read_toml(path), path).labelled
