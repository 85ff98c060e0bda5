"""The agent made of configuration alone: instructions, a list of tools, and what to publish.

[params]
instructions = "Answer the question from the notes."
tools = ["ReadFile", "SearchText"]
publish = "note.written"     # optional: Done's result as an event {"result": "..."}
publish_forced = true        # optional: also where nothing but Done was left to decide

Or, without tools: the event's text gets the label that goes best with it, by the label's phrase and
by its name, and `publish` carries {"label": "task", "margin": 0.4, "unsure": false}.

[params]
instructions = "Label the note by its kind."   # optional, but it helps
publish = "note.labelled"
[params.labels]
task = 'Something I have to do: "'
idea = 'An idea for later: "'
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from agentd.agent import Agent, Result
from agentd.config.wording import not_blank
from agentd.events import EVENT_TYPE, SYSTEM_TYPES, Event, NewEvent
from agentd.llm.calibration import likeliest, weighed
from agentd.llm.decision import Choice
from agentd.llm.label_bias import RECENT, offsets
from agentd.llm.label_phrases import scored, scored_by_any_text

NO_TEXT = "N/A"  # says nothing
TEXT_MAX = 1000  # characters: what a text is, its beginning says; a whole page fits no window
SCORED = "label_scores"  # the remembered fact: what the last texts came to
PHRASES_MAX = 32  # the most heads of one call for scores
Phrase = Annotated[str, AfterValidator(not_blank), Field(max_length=400)]


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
    labels: dict[str, Phrase] = Field({}, max_length=PHRASES_MAX)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if not self.labels and self.instructions is None:
            raise ValueError("write `instructions`, or phrases into [params.labels]")
        if self.labels and self.tools:
            raise ValueError("[params.labels] goes without `tools`")
        if len(self.labels) == 1:
            raise ValueError("[params.labels] needs a second label to choose from")
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError("[params.labels] has a phrase twice: nothing tells these labels apart")
        return self

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


class Labelled(BaseModel):
    """The payload of what it publishes with [params.labels]."""

    model_config = ConfigDict(extra="forbid")

    label: str
    margin: float
    unsure: bool


class NoResult(BaseModel):
    """The bound of Done where nothing is to be said."""

    result: Literal[""]


class Task(Agent[TaskParams]):
    """Follows its instructions with its tools until it is done."""

    Params = TaskParams
    function = "Decide"

    @classmethod
    def chosen(cls, params: TaskParams) -> tuple[str, ...]:
        """Return the configured tools and Done."""
        return (*params.tools, "Done")

    @classmethod
    def narrowed(cls, params: TaskParams) -> Mapping[str, type[BaseModel]]:
        """Bound Done's result."""
        return {"Done": NoResult if params.labels else TaskResult}

    @classmethod
    def published(cls, params: TaskParams) -> Mapping[str, type[BaseModel]]:
        """Return the configured event type."""
        payload = Labelled if params.labels else TaskResult
        return {params.publish: payload} if params.publish else {}

    def prompt_arguments(self) -> Mapping[str, Any]:
        """Return the instructions."""
        return {"instructions": self.params.instructions or ""}

    def dispatch(self, decision: Choice) -> Result:
        """Call the shared tool of that name."""
        return self.kit.tools.call(decision.name, decision.args)

    def finish(self, done: Choice, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Publish Done's result, where an event type is configured and the model chose to end."""
        if self.params.labels:
            return self._labelled(text_of(event))
        value = dict(done.args)
        unasked = self.forced is not None and not self.params.publish_forced
        if self.params.publish is None or unasked:
            return Result(value)
        return Result(value, publish=[NewEvent(self.params.publish, value)])

    def _labelled(self, text: str) -> Result:
        """Return the label that goes best with the text, what it gives any text taken off."""
        phrases, rules = self.params.labels, self.kit.labels
        instructions = self.params.instructions or ""
        (given,), model = scored(self.kit.score, phrases, [text], instructions)
        of = {"model": model, "phrases": phrases, "instructions": instructions}
        known = self.kit.memory.get(SCORED, {})
        known = known if known.get("of") == of else {}
        begun, recent = known.get("begun"), known.get("recent", [])
        taken_off = {}
        if rules.calibrate is not False:
            begun = begun or scored_by_any_text(self.kit.score, phrases, instructions)
            taken_off = offsets(begun, recent)
        about = weighed(given, taken_off, unsure_below=rules.unsure_below)
        label = likeliest(given, taken_off)
        value = {"label": label, "margin": about["margin"], "unsure": about["unsure"]}
        publish = [NewEvent(self.params.publish, value)] if self.params.publish else []
        seen = {"of": of, "begun": begun, "recent": [given, *recent][:RECENT]}
        return Result(value, publish=publish, remember={SCORED: seen})


def text_of(event: Event) -> str:
    """Return what of an event is labelled: the beginning of its `text`, else of all its texts."""
    texts = [value for value in event.payload.values() if isinstance(value, str)]
    text = event.payload.get("text")
    found = text if isinstance(text, str) and text else "\n".join(texts) or NO_TEXT
    return found[:TEXT_MAX]
