"""The agent made of configuration alone: instructions, a list of tools, and what to publish.

[params]
instructions = "Answer the question from the notes."
tools = ["ReadFile", "SearchText"]
publish = "note.written"     # optional: Done's result as an event {"result": "..."}
publish_forced = true        # optional: also where nothing but Done was left to decide
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from agentd.agent import Agent, Result
from agentd.config.wording import not_blank
from agentd.events import EVENT_TYPE, SYSTEM_TYPES, Event, NewEvent
from agentd.llm.decision import Choice


class TaskParams(BaseModel):
    """What a task agent is told and given."""

    model_config = ConfigDict(extra="forbid")

    instructions: Annotated[str, AfterValidator(not_blank)] = Field(min_length=1, max_length=4000)
    tools: tuple[str, ...] = Field((), max_length=20)  # classes of tools.baml
    publish: str | None = None
    publish_forced: bool = False

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


class TaskResult(BaseModel):
    """The payload of what a task agent publishes, and the bound of its Done."""

    model_config = ConfigDict(extra="forbid")

    result: str = Field(max_length=400)


class Task(Agent[TaskParams]):
    """Follows its instructions with its tools until it is done."""

    Params = TaskParams
    function = "Decide"
    arguments: ClassVar[Mapping[str, type[BaseModel]]] = {"Done": TaskResult}

    @classmethod
    def chosen(cls, params: TaskParams) -> tuple[str, ...]:
        """Return the configured tools and Done."""
        return (*params.tools, "Done")

    @classmethod
    def published(cls, params: TaskParams) -> Mapping[str, type[BaseModel]]:
        """Return the configured event type."""
        return {params.publish: TaskResult} if params.publish else {}

    def prompt_arguments(self) -> Mapping[str, Any]:
        """Return the instructions."""
        return {"instructions": self.params.instructions}

    def dispatch(self, decision: Choice) -> Result:
        """Call the shared tool of that name."""
        return self.kit.tools.call(decision.name, decision.args)

    def finish(self, done: Choice, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Publish Done's result, where an event type is configured and the model chose to end."""
        value = dict(done.args)
        unasked = self.forced is not None and not self.params.publish_forced
        if self.params.publish is None or unasked:
            return Result(value)
        return Result(value, publish=[NewEvent(self.params.publish, value)])
