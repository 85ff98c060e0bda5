"""What the file of an agent of configuration says: its [params] and its table [result]."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from agentd.config.columns import PHRASES_MAX, Column, Label, Phrase, check_phrases
from agentd.config.wording import not_blank
from agentd.events import EVENT_TYPE, SYSTEM_TYPES
from agentd.task_agent.asked_columns import TITLE_MAX
from agentd.task_agent.first_steps import FirstStep
from agentd.task_agent.found import EVENT, Reference
from agentd.task_agent.written_result import check_title

FIRST_MAX = 8
INTERESTS_MAX = 16
INTEREST_MAX = 200  # characters
NOTHING_NEW, IS_EMPTY = "nothing new", " is empty"
Words = Annotated[str, AfterValidator(not_blank), Field(max_length=INTEREST_MAX)]


class TaskParams(BaseModel):
    """What a task agent is told and given."""

    model_config = ConfigDict(extra="forbid")

    instructions: Annotated[str, AfterValidator(not_blank)] | None = Field(
        None, min_length=1, max_length=4000
    )
    tools: tuple[str, ...] = Field((), max_length=20)  # classes of tools.baml
    publish: str | None = None
    publish_forced: bool = False
    # Phrases by label; the model says nothing then.
    labels: Annotated[dict[Label, Phrase], AfterValidator(check_phrases)] = Field(
        {}, max_length=PHRASES_MAX
    )
    first: tuple[dict[str, str | dict[str, Any]], ...] = Field((), max_length=FIRST_MAX)
    skip_if: str | None = None
    each: str | None = None
    look_at: tuple[str, ...] = Field((), max_length=12)
    interests: tuple[Words, ...] = Field((), max_length=INTERESTS_MAX)
    title: str | None = Field(None, min_length=1, max_length=TITLE_MAX)
    words: bool = False
    result: dict[str, Column] = {}  # the file's table of that name

    @property
    def steps(self) -> list[FirstStep]:
        """The steps of `first`."""
        return [FirstStep.of(step) for step in self.first]

    @property
    def reports(self) -> bool:
        """Whether its result is made of columns."""
        return bool(self.result or self.interests)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.labels and self.tools:
            raise ValueError("[params.labels] goes without `tools`")
        if self.labels and (self.first or self.reports):
            raise ValueError("[params.labels] goes without `first`; give [result] its phrases")
        decides = self.tools or any(column.asked for column in self.result.values())
        if self.instructions is None and (decides or not (self.labels or self.reports)):
            raise ValueError("write `instructions`, or phrases into [params.labels]")
        return self

    @model_validator(mode="after")
    def _rows(self) -> Self:
        rows = [key for key in ("each", "look_at", "interests", "title") if getattr(self, key)]
        if rows and not self.reports:
            raise ValueError(f"`{rows[0]}` goes with [result]")
        if self.interests and self.each is None:
            raise ValueError("`interests` ranks the rows of `each`")
        if self.each is not None and self.tools:
            raise ValueError("`each` goes without `tools`: code collects, and the model chooses")
        if self.each is not None:
            self._reference("each", self.each)
        if self.skip_if not in (None, NOTHING_NEW):
            if not self.skip_if.endswith(IS_EMPTY):
                raise ValueError(f'`skip_if` is "{NOTHING_NEW}" or "TOOL.FIELD{IS_EMPTY}"')
            self._reference("skip_if", self.skip_if.removesuffix(IS_EMPTY))
        elif self.skip_if and not (self.first or self.each):
            raise ValueError(f'`skip_if` = "{NOTHING_NEW}" needs `first`')
        return self

    @model_validator(mode="after")
    def _columns(self) -> Self:
        tools = [step.tool for step in self.steps]
        for name, column in self.result.items():
            if column.type is not None and not self.words:
                raise ValueError(
                    f"result.{name}: `type` is for the model to write: set `words` = true in "
                    "[params], for a model of 3B or more"
                )
            if column.pick is not None:
                self._reference(f"result.{name}.pick", column.pick)
            for key, text in (("from", column.source), ("link", column.link)):
                if text is not None:
                    _read(f"result.{name}.{key}", text, tools)
            if self.each is None and name in ("title", "text"):
                raise ValueError(f"result.{name}: code writes a result's {name}; name it otherwise")
        if self.title is not None:
            try:
                check_title(
                    self.title,
                    self.result,
                    rows=self.each is not None,
                    interests=self.interests,
                )
            except ValueError as error:
                raise ValueError(f"`title`: {error}") from error
        return self

    def _reference(self, key: str, text: str) -> None:
        """Check what has to be of a first step, or of the event."""
        tools = [step.tool for step in self.steps]
        if not _read(key, text, tools).of:
            known = ", ".join(f'"{of}.FIELD"' for of in dict.fromkeys((*tools, EVENT)))
            raise ValueError(f"`{key}`: {text!r} is of no step of `first`; write {known}")

    @field_validator("first")
    @classmethod
    def _steps(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for step in value:
            FirstStep.of(step)
        return value

    @field_validator("interests", "look_at")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("name each once")
        return value

    @field_validator("tools")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or "Done" in value:
            raise ValueError("name each tool once; Done is always there")
        return value

    @field_validator("publish")
    @classmethod
    def _event_type(cls, value: str | None) -> str | None:
        if value is not None and not EVENT_TYPE.fullmatch(value):
            raise ValueError(f'{value!r} is no event type; write "note.written"')
        if value is not None and value.startswith(SYSTEM_TYPES):
            raise ValueError(f"{value!r} is a type of the system; choose another")
        return value


def _read(key: str, text: str, tools: list[str]) -> Reference:
    try:
        return Reference.read(text, tools)
    except ValueError as error:
        raise ValueError(f"`{key}`: {error}") from error
