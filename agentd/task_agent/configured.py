"""The agent made of configuration alone: what it plans, what it asks, and what it publishes."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentd.agent import Agent, PlannedCall, Question, Result
from agentd.errors import SessionFailed
from agentd.events import Event, NewEvent
from agentd.llm.decision import DONE, Choice
from agentd.llm.label_phrases import labelled
from agentd.llm.label_words import by_words
from agentd.llm.ranking import ranked
from agentd.task_agent.asked_columns import NoColumn, asked_model, payload_model
from agentd.task_agent.found import ROWS_MAX, Found, Reference, fact, text_of
from agentd.task_agent.task_params import IS_EMPTY, NOTHING_NEW, TaskParams
from agentd.task_agent.written_result import (
    address_of,
    default_title,
    text_of_one,
    text_of_rows,
    title_of,
)
from agentd.tools.declared_tools import REGISTRY

SCORED = "label_scores"  # begins the remembered facts: what the last texts came to
ROW = "Row"  # the class of the decision on one row


class TaskResult(BaseModel):
    """The payload of what a task agent publishes without [result], and the bound of its Done."""

    model_config = ConfigDict(extra="forbid")

    result: str = Field(max_length=400)


class TextLabel(BaseModel):
    """The payload of what it publishes with [params.labels]."""

    model_config = ConfigDict(extra="forbid")

    label: str
    margin: float
    unsure: bool


class ConfiguredAgent(Agent[TaskParams]):
    """Takes its first steps, follows its instructions with its tools, and fills its columns in."""

    Params = TaskParams
    function = "Decide"
    takes_result = True

    @classmethod
    def chosen(cls, params: TaskParams) -> tuple[str, ...]:
        """Return the configured tools, what is asked of each row, and Done."""
        asked = ROW in cls.narrowed(params)
        return (*params.tools, *([ROW] if asked else []), DONE)

    @classmethod
    def narrowed(cls, params: TaskParams) -> Mapping[str, type[BaseModel]]:
        """Return the fields of what is decided."""
        if params.labels:
            return {DONE: NoColumn}
        if not params.reports:
            return {DONE: TaskResult}
        asked = asked_model(params.result)
        if params.each is None:
            return {DONE: asked}
        return {DONE: NoColumn} if asked is NoColumn else {ROW: asked, DONE: NoColumn}

    @classmethod
    def labelling(cls, params: TaskParams) -> frozenset[str]:
        """Return the columns of labels under the mask."""
        of = DONE if params.each is None else ROW
        return frozenset(f"{of}.{n}" for n, column in params.result.items() if column.labels)

    @classmethod
    def plans(cls, params: TaskParams) -> tuple[str, ...]:
        """Return the tools of the first steps."""
        return tuple(dict.fromkeys(step.tool for step in params.steps))

    @classmethod
    def published(cls, params: TaskParams) -> Mapping[str, type[BaseModel]]:
        """Return the configured event type."""
        if not params.publish:
            return {}
        if params.reports:
            rows = params.each is not None
            return {
                params.publish: payload_model(params.result, rows=rows, interests=params.interests)
            }
        return {params.publish: TextLabel if params.labels else TaskResult}

    def prompt_arguments(self) -> Mapping[str, Any]:
        """Return the instructions, with the folders that tools may touch."""
        told = [self.params.instructions or ""]
        kinds = {REGISTRY[tool].permission for tool in self.params.tools if tool in REGISTRY}
        for kind, word in (("read", "read"), ("write", "write")):
            listed = getattr(self.kit.tools.permissions, kind)
            if kind in kinds and listed:
                told.append(f"You may {word}: {', '.join(listed)}")
        return {"instructions": "\n".join(told)}

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Take the event."""
        self.event = event

    def opening(self, event: Event) -> Result:
        """Refuse an event that has not what the first steps need."""
        for step in self.params.steps:
            step.filled(event)
        return super().opening(event)

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | Question | None:
        """Return the next first step, then the next row, and Done where nothing is left to ask."""
        params, steps = self.params, self.params.steps
        if len(results) < len(steps):
            step = steps[len(results)]
            return PlannedCall(step.decision, step.filled(self.event))
        self.found = self._found(results)
        if self._skipped(self.found):
            return PlannedCall(DONE)
        if params.each is not None:
            at, rows = len(results) - len(steps), self._rows(self.found)
            if ROW in self.narrowed(params) and at < len(rows):
                return Question(ROW, self._shown(rows[at]))
            return PlannedCall(DONE)
        silent = params.reports and not params.tools and self.narrowed(params)[DONE] is NoColumn
        return PlannedCall(DONE) if silent else None

    def candidates(self) -> Mapping[str, Sequence[str]]:
        """Return what the first steps found to pick from."""
        of = DONE if self.params.each is None else ROW
        columns = self.params.result.items()
        picks = {name: column.pick for name, column in columns if column.pick is not None}
        return {f"{of}.{name}": self.found.candidates(pick) for name, pick in picks.items()}

    def dispatch(self, decision: Choice) -> Result:
        """Call the shared tool of that name."""
        return self.kit.tools.call(decision.name, decision.args)

    def finish(self, done: Choice, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Return what is published: not where nothing is new, nor where only Done was left."""
        if self.params.labels:
            return self._labelled(event)
        found = self._found(results)
        if len(found.results) < len(found.tools):  # else there was nothing, to a reader
            raise SessionFailed("its time was up before its first steps were done")
        if self._skipped(found):
            return Result({"skipped": self.params.skip_if})
        # Rows are the tools' facts, and counted as seen: they are published in any case.
        forced = self.forced is not None and self.params.each is None
        unasked = forced and not self.params.publish_forced
        if not self.params.reports:
            value, remember = dict(done.args), dict[str, Any]()
        else:
            value, remember = self._report(done, found, results[len(self.params.first) :])
        if self.params.publish is None or unasked:
            return Result(value, remember={} if unasked else remember)
        return Result(value, publish=[NewEvent(self.params.publish, value)], remember=remember)

    def read_of(
        self, results: Sequence[Mapping[str, Any]], made: Mapping[str, Any], at: int
    ) -> str:
        """Return the text that was read of a result's row number `at`, by its facts.

        Raises:
            ValueError: they are of no row, or of several, whose order nobody knows.
        """
        if self.params.labels:
            return self._text_of(self.event)
        self.found = self._found(results)
        facts = [name for name, column in self.params.result.items() if column.source]
        rows = self._rows(self.found)
        if self.params.each is None:
            return self._read(rows[0])
        copies = [self._copied(row, self.found) for row in rows]
        fit = [n for n, one in enumerate(copies) if all(one[f] == made.get(f) for f in facts)]
        texts = {self._read(rows[n]) for n in fit}
        if len(texts) > 1 and at in fit and not self.params.interests:
            texts = {self._read(rows[at])}
        if len(texts) != 1:
            raise ValueError("its facts are those of several rows" if fit else "it has no such row")
        return texts.pop()

    def _found(self, results: Sequence[Mapping[str, Any]]) -> Found:
        tools = [step.tool for step in self.params.steps]
        return Found(self.event.payload, tools, results[: len(tools)])

    def _skipped(self, found: Found) -> bool:
        rule = self.params.skip_if
        if rule is None or len(found.results) < len(found.tools):
            return False
        if rule == NOTHING_NEW:
            return found.nothing_new(self.params.each)
        return found.empty(rule.removesuffix(IS_EMPTY))

    def _rows(self, found: Found) -> list[Mapping[str, Any]]:
        each = self.params.each
        return [found.whole()] if each is None else found.rows(each)[:ROWS_MAX]

    def _shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model sees of a row; what is the same for all comes first."""
        picks = {key.partition(".")[2]: list(of) for key, of in self.candidates().items()}
        return {**picks, "text": text_of(row, self.params.look_at)}

    def _read(self, row: Mapping[str, Any]) -> str:
        """Return what of a row is labelled and ranked by scores."""
        alone = self.params.each is None and row.get("text")
        return text_of(row, self.params.look_at or (("text",) if alone else ()))

    # --- what comes of it

    def _report(
        self, done: Choice, found: Found, answers: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the result's payload, and what to remember."""
        params, each = self.params, self.params.each
        rows = self._rows(found)
        texts = [self._read(row) for row in rows]
        if each is None:
            unsure = [n for n, label in self.labelled.items() if label.unsure]
            answers = [{**done.args, "unsure": unsure}]
        made = [self._copied(row, found) for row in rows]
        for one, answer in zip(made, answers, strict=False):
            own = {name: answer.get(name) for name, col in params.result.items() if col.asked}
            one |= {name: None if value == "" else value for name, value in own.items()}
            one["unsure"] = list(answer.get("unsure", ()))
        remember: dict[str, Any] = {}
        for name, column in params.result.items():
            if column.contains:
                otherwise = None if column.phrases else column.known[0]
                for one, text in zip(made, texts, strict=True):
                    one[name] = by_words(column.contains, text) or otherwise
            left = [at for at, one in enumerate(made) if one[name] is None]
            if column.phrases and left:
                given, seen = labelled(
                    self.kit,
                    f"{SCORED}:{name}",
                    column.phrases,
                    [texts[at] for at in left],
                    column.description or params.instructions or "",
                )
                remember |= seen
                for at, label in zip(left, given, strict=True):
                    made[at][name] = label.value
                    made[at]["unsure"] += [name] if label.unsure else []
        links = [self._links(row, found) for row in rows]
        if params.interests and rows:
            made, links = self._ranked(made, links, texts)
        return self._written(made, links, found), remember

    def _copied(self, row: Mapping[str, Any], found: Found) -> dict[str, Any]:
        """Return a row's columns in their order, the facts filled in."""
        made: dict[str, Any] = {}
        for name, column in self.params.result.items():
            source = column.source
            made[name] = fact(row, Reference.read(source, found.tools), found) if source else None
        return {**made, "unsure": []}

    def _links(self, row: Mapping[str, Any], found: Found) -> dict[str, str]:
        """Return the addresses of columns that have one."""
        links: dict[str, str] = {}
        for name, column in self.params.result.items():
            if column.link is not None:
                where = Reference.read(column.link, found.tools)
                value = found.value(where) if where.of else where.within(row)
                if (address := address_of(value)) is not None:
                    links[name] = address
        return links

    def _ranked(
        self,
        made: Sequence[dict[str, Any]],
        links: Sequence[dict[str, str]],
        texts: Sequence[str],
    ) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        """Return the rows in the order of what they gain by an interest."""
        ranks = ranked(self.kit.score, self.params.interests, texts)
        order = sorted(range(len(made)), key=lambda at: ranks[at].key, reverse=True)
        rows = [
            {**made[at], "interest": ranks[at].interest, "rank": place}
            for place, at in enumerate(order, 1)
        ]
        return rows, [links[at] for at in order]

    def _written(
        self, made: Sequence[dict[str, Any]], links: Sequence[dict[str, str]], found: Found
    ) -> dict[str, Any]:
        params, each = self.params, self.params.each
        template = params.title or default_title(
            self.kit.name, params.result, each, params.interests
        )
        total = len(made) if each is None else len(found.rows(each))
        title = title_of(template, found.payload, made, None if each is None else total)
        names = list(params.result)
        for row in made:
            if not row["unsure"]:
                del row["unsure"]
        if each is None:
            return {"title": title, "text": text_of_one(names, made[0], links[0]), **made[0]}
        names += ["interest"] if params.interests else []
        more = total - len(made)
        value = {"title": title, "text": text_of_rows(names, made, links, more), "rows": made}
        return {**value, "more": more} if more else value

    def _labelled(self, event: Event) -> Result:
        """Return the label that goes best with the event's text, by [params.labels]."""
        text, instructions = self._text_of(event), self.params.instructions or ""
        (label,), seen = labelled(self.kit, SCORED, self.params.labels, [text], instructions)
        value = {"label": label.value, "margin": label.margin, "unsure": label.unsure}
        publish = [NewEvent(self.params.publish, value)] if self.params.publish else []
        return Result(value, publish=publish, remember=seen)

    @staticmethod
    def _text_of(event: Event) -> str:
        """Return what [params.labels] labels: the event's `text`, else all of its texts."""
        payload = event.payload
        alone = isinstance(payload.get("text"), str) and payload["text"]
        names = [key for key, value in payload.items() if isinstance(value, str)]
        return text_of(payload, ("text",) if alone else names)
