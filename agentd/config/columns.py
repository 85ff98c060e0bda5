"""The table [result] of an agent of configuration alone: what a result has, column by column."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from agentd.config.toml import Strict
from agentd.config.wording import not_blank
from agentd.states import LABELS_MAX, LABELS_MIN

COLUMNS_MAX = 12
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,31}")
# What code puts beside a row's columns, and what every decision begins with.
RESERVED = frozenset({"tool", "rank", "interest", "unsure"})
KINDS = ("from", "labels", "phrases", "contains", "pick", "type")
TOGETHER = ["phrases", "contains"]  # the only kinds that go together
PHRASES_MAX = 32  # the most heads of one call for scores
TEXT_MAX = 400  # characters of a text that a model writes, where its column says nothing
INTEGER_MAX = 1_000_000


def _label(value: str) -> str:
    if not value.isprintable() or value != value.strip() or set(value) & set("\"'\\"):
        raise ValueError(f"{value!r} is no label: write plain words, without quotes")
    return value


Label = Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_label)]
Word = Annotated[str, AfterValidator(not_blank), Field(max_length=80)]
Phrase = Annotated[str, AfterValidator(not_blank), Field(max_length=400)]


def check_phrases(value: dict[Label, Phrase]) -> dict[Label, Phrase]:
    """Raise ValueError where phrases by label cannot tell the labels apart."""
    if len(value) == 1:
        raise ValueError("needs a second label to choose from")
    if len(set(value.values())) < len(value):
        raise ValueError("has a phrase twice: nothing tells these labels apart")
    return value


def check_column_name(name: str) -> None:
    """Raise ValueError unless `name` can name a column."""
    if not COLUMN.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"{name!r} cannot name a column; write lower-case letters, digits and _, not "
            f"{', '.join(sorted(RESERVED))}"
        )


class Column(Strict):
    """One column: what code copies or finds by words, or the model chooses; one of `KINDS`."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    description: str = Field(
        "", max_length=200, description="What the model is told of it. The prompt carries it."
    )
    source: str | None = Field(
        None,
        alias="from",
        description='A fact, copied by code: a field of the row, "event.FIELD" or "TOOL.FIELD".',
    )
    link: str | None = Field(
        None, description="With `from`: the field that has its address, for a link in the text."
    )
    labels: tuple[Label, ...] = Field(
        (), max_length=LABELS_MAX, description="A label, chosen by the model under a mask."
    )
    phrases: Annotated[dict[Label, Phrase], AfterValidator(check_phrases)] = Field(
        default_factory=dict,
        max_length=PHRASES_MAX,
        description="A label, chosen by scores: a phrase after which such a text could stand.",
    )
    contains: dict[Label, tuple[Word, ...]] = Field(
        default_factory=dict,
        max_length=LABELS_MAX,
        description="A label, chosen by code: words by which a text has it, or else the first "
        "label. With `phrases`, the model labels the texts that have none of the words.",
    )
    pick: str | None = Field(
        None, description='One of what a first step found: "TOOL.FIELD", at most 50.'
    )
    type: Literal["text", "integer", "boolean"] | None = Field(
        None, description="What the model writes itself; with `words = true` alone."
    )
    min: int | None = Field(
        None, ge=-INTEGER_MAX, le=INTEGER_MAX, description="The least integer; 0 by default."
    )
    max: int | None = Field(
        None,
        ge=-INTEGER_MAX,
        le=INTEGER_MAX,
        description="The greatest integer, or the characters of a text.",
    )

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return next(kind for kind in KINDS if self._given(kind))

    @property
    def asked(self) -> bool:
        """Whether the model decides it, by an answer under the mask."""
        return self.kind in ("labels", "pick", "type")

    @property
    def known(self) -> tuple[str, ...]:
        """The labels that it may have; none where it is no label."""
        return self.labels or tuple(self.phrases or self.contains)

    def _given(self, kind: str) -> bool:
        return bool(self.source if kind == "from" else getattr(self, kind))

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in KINDS if self._given(kind)]
        if len(kinds) != 1 and kinds != TOGETHER:
            raise ValueError(
                f"write exactly one of {', '.join(KINDS)}; `contains` goes with `phrases`, too"
            )
        if kinds == TOGETHER and (left := self.contains.keys() - self.phrases.keys()):
            raise ValueError(f"`contains`: {min(left)} has no phrase")
        if kinds == ["contains"] and len(self.contains) < LABELS_MIN:
            raise ValueError("`contains` needs two labels or more")
        if self.labels and not LABELS_MIN <= len(set(self.labels)) == len(self.labels):
            raise ValueError("`labels` needs two labels or more, each once")
        if self.link and kinds != ["from"]:
            raise ValueError("`link` goes with `from`")
        if self.type is None and (self.min, self.max) != (None, None):
            raise ValueError("`min` and `max` go with `type`")
        low, high = self.bounds
        if low > high or (self.type == "text" and not 1 <= high <= TEXT_MAX * 5):
            raise ValueError(f"nothing lies between {low} and {high}")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and greatest integer, or the characters of a text."""
        most = TEXT_MAX if self.type == "text" else INTEGER_MAX
        return self.min or 0, most if self.max is None else self.max
