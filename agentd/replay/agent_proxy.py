"""An agent between the loop and the real one: it maps paths, and gives recorded results."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel

from agentd.agent import Agent, PlannedCall, Question, Result
from agentd.errors import ToolError
from agentd.events import Event, NewEvent
from agentd.llm.decision import DONE, Choice
from agentd.replay.folder_map import FolderMap


class MappedAgent(Agent[Any]):
    """The agent that `make` returns, whose folders lie elsewhere than loop and model believe.

    It gets events, decisions and results with the paths of here. What it returns has the recorded
    ones again.
    """

    def __init__(self, make: Callable[[], Agent[Any]], folders: FolderMap) -> None:
        self._map = folders
        self._mapped: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []  # results, and as here
        self.inner = make()
        self.params, self.kit = self.inner.params, self.inner.kit

    @classmethod
    def of(cls, make: Callable[[], Agent[Any]], folders: FolderMap, **kwargs: Any) -> Self:
        """Return one with the agent's own payload models; errors name the agent's module."""
        inner = make()
        published = inner.published(inner.params)
        own = {
            "__module__": type(inner).__module__,
            "accepts": {kind: _HereModel(model, folders) for kind, model in inner.accepts.items()},
            "published": classmethod(
                lambda _cls, _params: {k: _HereModel(m, folders) for k, m in published.items()}
            ),
        }
        agent: Self = type(cls.__name__, (cls,), own)(make, folders, **kwargs)
        return agent

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """See `Agent.begin`."""
        self.inner.begin(self._event(event), self._as_here(results))

    def opening(self, event: Event) -> Result:
        """See `Agent.opening`."""
        return self._result(lambda: self.inner.opening(self._event(event)))

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | Question | None:
        """See `Agent.planned`."""
        plan = self.inner.planned(self._as_here(results))
        if isinstance(plan, PlannedCall):
            return PlannedCall(plan.name, self._map.as_recorded(dict(plan.args)))
        if isinstance(plan, Question):
            return Question(plan.name, self._map.as_recorded(dict(plan.about)))
        return None

    def candidates(self) -> Mapping[str, Sequence[str]]:
        """See `Agent.candidates`."""
        found: Mapping[str, Sequence[str]] = self._map.as_recorded(
            {key: list(of) for key, of in self.inner.candidates().items()}
        )
        return found

    def barred(self) -> frozenset[str]:
        """See `Agent.barred`."""
        return self.inner.barred()

    def dispatch(self, decision: Any) -> Result:
        """See `Agent.dispatch`."""
        self.inner.labelled = self.labelled
        return self._result(lambda: self.inner.dispatch(self._decision(decision)))

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """See `Agent.finish`."""
        inner, here = self.inner, self._as_here(results)
        inner.forced, inner.labelled = self.forced, self.labelled
        return self._result(lambda: inner.finish(self._decision(done), self._event(event), here))

    def _as_here(self, results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return results with the paths of here; each is mapped once, and not in every turn."""
        pairs = zip(self._mapped, results, strict=False)
        same = next((at for at, (pair, one) in enumerate(pairs) if pair[0] != one), None)
        del self._mapped[len(results) if same is None else same :]
        for one in results[len(self._mapped) :]:
            self._mapped.append((one, self._map.as_here(one)))
        return [here for _, here in self._mapped]

    def _event(self, event: Event) -> Event:
        payload = self._map.as_here(event.payload)
        return Event(**{**vars(event), "payload": payload})

    def _decision(self, decision: Any) -> Any:
        if isinstance(decision, Choice):
            return Choice(decision.name, self._map.as_here(dict(decision.args)))
        fields = decision.model_dump()
        here = self._map.as_here(fields)
        return decision if here == fields else type(decision).model_validate(here)

    def _result(self, call: Callable[[], Result]) -> Result:
        """Return what a call gives, or raise its tool's error, in the recorded paths."""
        as_recorded = self._map.as_recorded
        try:
            result = call()
        except ToolError as error:
            raise type(error)(as_recorded(error.what)) from error
        publish = [
            NewEvent(e.event_type, as_recorded(e.payload), e.target, e.dedup_key)
            for e in result.publish
        ]
        return Result(
            as_recorded(result.value),
            result.trusted,
            publish,
            as_recorded(result.remember),
            result.ask,
            result.effect,
        )


@dataclass(frozen=True)
class Handling:
    """What is done with a decision: carried out, its recorded result given, or both."""

    run: bool
    given: Result | None = None


class ReplayedAgent(MappedAgent):
    """The agent in a replay: of some of its decisions the recorded result is given.

    `handle` says so of a decision, by its name; `check` is called before a step is planned.
    `adjust` may change what a decision that was carried out, or Done, came to. `results` are the
    session's so far.
    """

    def __init__(
        self,
        make: Callable[[], Agent[Any]],
        folders: FolderMap,
        *,
        handle: Callable[[str], Handling],
        check: Callable[[], None],
        adjust: Callable[[str, Result], Result],
        results: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        super().__init__(make, folders)
        self._make, self._handle, self._adjust, self._results = make, handle, adjust, results
        self._check = check
        self._begun: Event | None = None
        self._stale = False  # a result was given of which the agent knows nothing

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """See `Agent.begin`."""
        self._begun = event
        super().begin(event, results)

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | Question | None:
        """See `Agent.planned`."""
        self._check()
        self._catch_up()
        return super().planned(results)

    def barred(self) -> frozenset[str]:
        """See `Agent.barred`."""
        self._catch_up()
        return super().barred()

    def dispatch(self, decision: Any) -> Result:
        """Carry the decision out, or return its recorded result, or both."""
        name = decision.name if isinstance(decision, Choice) else type(decision).__name__
        handling = self._handle(name)
        self._catch_up()
        if handling.run and handling.given is None:
            return self._adjust(name, super().dispatch(decision))
        if handling.run:
            # Its own result does not count: whatever it raises, it was only watched.
            here, self.inner.labelled = self._decision(decision), self.labelled
            with suppress(Exception):
                self.inner.dispatch(here)
        self._stale = True
        return handling.given or Result()

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """See `Agent.finish`."""
        self._catch_up()
        return self._adjust(DONE, super().finish(done, event, results))

    def _catch_up(self) -> None:
        """Begin anew, as after a cut, where the agent missed a result that was given."""
        if self._stale and self._begun is not None:
            self._stale = False
            self.inner = self._make()
            super().begin(self._begun, self._results())


class _HereModel:
    """A payload's model that reads recorded paths as those of here."""

    def __init__(self, model: type[BaseModel], folders: FolderMap) -> None:
        self._model, self._folders = model, folders

    def model_validate(self, payload: Any) -> BaseModel:
        return self._model.model_validate(self._folders.as_here(payload))
