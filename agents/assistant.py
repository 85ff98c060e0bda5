"""Answers a person's question from what other agents found, and from notes.

Code finds by the question's words, the model's scores rank, and code writes the answer with its
sources. With `words` the model words an answer from the best of what was found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agentd.agent import Agent, PlannedCall, Question, Result, or_error
from agentd.errors import ModelMisconfigured
from agentd.events import QUESTION, QUESTION_CHARACTERS_MAX, Event, NewEvent
from agentd.llm.decision import DONE
from agentd.llm.ranking import ranked
from agentd.paths import expanded
from agentd.task_agent.written_result import inert
from agentd.tools.recall import TYPES

BEFORE_CHARACTERS = 2_000  # of an answer that is followed up; `agentd ask` cuts it before
ANSWER_CHARACTERS = 600
NOTES_MAX = 4  # folders or files
RANKED_MAX = 16  # passages that are scored
SHOWN_MAX = 6  # on the answer, and to the model that words it
SHARE_MIN = 1 / 3  # of a question's words by their worth: so much of them is enough
LINE_CHARACTERS = 200
QUESTION_SHOWN = 160  # of a title
NATS = 20.0  # that a passage gains by the question are worth all of its words
HEAD = 'Question: "{interest}"\nAnswer from my notes: "'
NEUTRAL = 'From my notes: "'

Types = Annotated[str, StringConstraints(pattern=TYPES, max_length=60)]


class AssistantParams(BaseModel):
    """Where it looks."""

    model_config = ConfigDict(extra="forbid")

    notes: list[str] = Field([], max_length=NOTES_MAX, description="Folders or files of notes.")
    results: list[Types] = Field(
        ["*"], max_length=16, description='Types of events of other agents; "*": all.'
    )
    words: bool = Field(False, description="The model words an answer; of 3B at least.")


class Exchange(BaseModel):
    """A question of before, and its answer."""

    question: str = Field(max_length=QUESTION_CHARACTERS_MAX)
    answer: str = Field("", max_length=BEFORE_CHARACTERS)


class QuestionAsked(BaseModel):
    """What a person asks; `before` is what it follows up."""

    question: str = Field(min_length=1, max_length=QUESTION_CHARACTERS_MAX)
    before: Exchange | None = None


class AnswerArgs(BaseModel):
    """Bounds of the model's words; the mask enforces them."""

    answer: str = Field(min_length=1, max_length=ANSWER_CHARACTERS)


class Source(BaseModel):
    """A passage that was found: of an event or a note."""

    where: str
    what: str
    at: str | None = None
    event: int | None = None


class QuestionAnswered(BaseModel):
    """A result: the question, its answer in Markdown, and the sources, the best first."""

    title: str = Field(min_length=1, max_length=200)
    text: str = Field(max_length=20_000)
    question: str
    rows: list[Source]


class Assistant(Agent[AssistantParams]):
    """Finds, ranks, and ends; with `words` one question to the model in between."""

    Params = AssistantParams
    function = "Assistant"
    accepts: ClassVar[Mapping[str, type[BaseModel]]] = {QUESTION: QuestionAsked}
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {"question.answered": QuestionAnswered}
    arguments: ClassVar[Mapping[str, type[BaseModel]]] = {"Answer": AnswerArgs}

    @classmethod
    def plans(cls, params: AssistantParams) -> tuple[str, ...]:
        """Return what searches the sources that it has."""
        tools = {"FindEvents": params.results, "FindNotes": params.notes}
        return tuple(tool for tool, sources in tools.items() if sources)

    @classmethod
    def folders(cls, params: AssistantParams) -> Iterable[Path]:
        """Return the notes."""
        return map(expanded, params.notes)

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Plan what is searched: by the question's words, and by those of the one before."""
        self._question = str(event.payload.get("question", ""))
        before = event.payload.get("before")
        self._before = before if isinstance(before, Mapping) else {}
        words = f"{self._question} {self._before.get('question', '')}".strip()
        places: list[PlannedCall] = []
        if self.params.results:
            places += [PlannedCall("FindEvents", {"words": words, "types": self.params.results})]
        places += [PlannedCall("FindNotes", {"words": words, "path": p}) for p in self.params.notes]
        self._steps = places

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | Question | None:
        """Search; let the model word an answer where it is to; end."""
        if len(results) < len(self._steps):
            return self._steps[len(results)]
        found = self._found(results)[:SHOWN_MAX]
        if self.params.words and found and len(results) == len(self._steps):
            about = {"question": self._question, "found": [one.what for one in found]}
            return Question("Answer", {"before": self._before, **about} if self._before else about)
        return PlannedCall(DONE)

    def dispatch(self, decision: Any) -> Result:
        """Search a source. One that cannot be read is named in the answer."""
        return or_error(partial(super().dispatch, decision))

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Publish the answer; where nothing was found, it says so."""
        found, answers = self._found(results), results[len(self._steps) :]
        if not self.params.words:
            found = self._ranked(found)
        sources = [one.source for one in found[:SHOWN_MAX]]
        failed = [str(result["error"]) for result in results if "error" in result]
        said = str(answers[0].get("answer", "")) if answers else ""
        count = f" ({len(sources) or 'nothing'} found)"
        answer = QuestionAnswered(
            title=inert(self._question, QUESTION_SHOWN) + count * (not said),
            text=_page(said, sources, failed),
            question=self._question,
            rows=sources,
        ).model_dump(exclude_none=True)
        return Result(answer, publish=[NewEvent("question.answered", answer)])

    def _found(self, results: Sequence[Mapping[str, Any]]) -> list["Found"]:
        """Return all passages, those that hold most of the question's words first."""
        found = [
            Found(str(one.get("title") or one.get("heading") or ""), _source(one), one["share"])
            for result in results[: len(self._steps)]
            for one in result.get("found", ())
        ]
        return sorted(found, key=lambda one: one.share, reverse=True)

    def _ranked(self, found: Sequence["Found"]) -> list["Found"]:
        """Return those that are of the question by their words, or by what the model makes of them.

        The model's scores, where there are some, also decide about the order.
        """
        if len(found) == 1 and found[0].share >= SHARE_MIN:
            return [*found]  # there is nothing to decide
        some = found[:RANKED_MAX]
        try:
            ranks = ranked(
                self.kit.score, [self._question], [one.text for one in some], (HEAD, NEUTRAL)
            )
        except ModelMisconfigured:  # a server that gives no scores
            return [one for one in found if one.share >= SHARE_MIN]
        worth = [
            (one.share + rank.gain / NATS, one)
            for one, rank in zip(some, ranks, strict=True)
            if one.share >= SHARE_MIN or rank.interest is not None
        ]
        return [one for _, one in sorted(worth, key=lambda pair: pair[0], reverse=True)]


@dataclass(frozen=True)
class Found:
    """A passage, under its title or heading, and how much of the question's words it holds."""

    head: str
    source: Source
    share: float

    @property
    def what(self) -> str:
        """The passage itself."""
        return self.source.what

    @property
    def text(self) -> str:
        """The passage as it is read."""
        return f"{self.head}: {self.what}" if self.head not in ("", self.what) else self.what


def _source(found: Mapping[str, Any]) -> Source:
    if "file" in found:
        return Source(where=f"{found['file']}:{found['line']}", what=found["text"])
    return Source(
        where=str(found["agent"]), what=found["text"] or "-", at=found["at"], event=found["id"]
    )


def _page(said: str, sources: Sequence[Source], failed: Sequence[str]) -> str:
    lines = [f"* {inert(one.what, LINE_CHARACTERS)} ({_place(one)})" for one in sources]
    parts = [
        inert(said, ANSWER_CHARACTERS),
        "\n".join(lines) or "No note and no result holds enough of these words.",
        "\n".join(f"* could not be read: {inert(why, LINE_CHARACTERS)}" for why in failed),
    ]
    return "\n\n".join(filter(None, parts))


def _place(one: Source) -> str:
    where = inert(one.where, LINE_CHARACTERS)
    return where if one.event is None else f"{where}, {one.at}, event {one.event}"
