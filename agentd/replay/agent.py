"""The agent in a replay: the real one, seen from the recording.

It gets events, decisions and facts in the fixture's paths; what it returns is told in the recorded
ones. Decisions that only read are carried out; of others the recorded result is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from agentd.agent import Agent, Result
from agentd.errors import ToolError
from agentd.events import Event, NewEvent
from agentd.guards import DONE
from agentd.llm.decision import Choice
from agentd.replay.folders import Places
from agentd.tools import REGISTRY

# Of the shared tools, those that change nothing. AskPerson only parks the session.
READS = frozenset({"ListFiles", "ReadFile", "SearchText", "HttpGet", "AskPerson"})


@dataclass(frozen=True)
class Chosen:
    """What to do with a decision: carry it out, take a recorded result, or watch it and do both."""

    run: bool
    result: Result | None = None


class Actor(Agent[Any]):
    """Stands between the loop and the agent that `make` returns.

    `choose` says of a decision, by its name, what to do with it. `settle` may change what a
    decision, or Done, came to. `results` are the session's so far.
    """

    def __init__(
        self,
        make: Callable[[], Agent[Any]],
        places: Places,
        *,
        choose: Callable[[str], Chosen],
        settle: Callable[[str, Result], Result],
        results: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        self._make, self.places = make, places
        self.inner = make()
        self.params, self.kit = self.inner.params, self.inner.kit
        self._choose, self._settle, self._results = choose, settle, results
        self._begun: Event | None = None
        self._stale = False  # a result was taken of which the agent knows nothing

    @classmethod
    def of(cls, make: Callable[[], Agent[Any]], places: Places, **kwargs: Any) -> "Actor":
        """Return an actor with the agent's own payload models; errors name the agent's module."""
        inner = make()
        published = inner.published(inner.params)
        own = {
            "__module__": type(inner).__module__,
            "accepts": {kind: _Inward(model, places) for kind, model in inner.accepts.items()},
            "published": classmethod(
                lambda _cls, _params: {k: _Inward(m, places) for k, m in published.items()}
            ),
        }
        actor: Actor = type(cls.__name__, (cls,), own)(make, places, **kwargs)
        return actor

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """See `Agent.begin`."""
        self._begun = event
        self.inner.begin(self._event(event), self.places.inward(list(results)))

    def opening(self, event: Event) -> Result:
        """See `Agent.opening`."""
        return self._told(lambda: self.inner.opening(self._event(event)))

    def barred(self) -> frozenset[str]:
        """See `Agent.barred`."""
        return self._knowing().barred()

    def dispatch(self, decision: Any) -> Result:
        """Carry the decision out, or return its recorded result, or both."""
        name = decision.name if isinstance(decision, Choice) else type(decision).__name__
        chosen = self._choose(name)
        inner, inward = self._knowing(), self._decision(decision)
        if chosen.run and chosen.result is None:
            return self._settle(name, self._told(lambda: inner.dispatch(inward)))
        if chosen.run:
            # Its own result does not count: whatever it raises, it was only watched.
            with suppress(Exception):
                inner.dispatch(inward)
        self._stale = True
        return chosen.result or Result()

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """See `Agent.finish`."""
        inner, inward = self._knowing(), self.places.inward(list(results))
        inner.forced = self.forced
        result = self._told(lambda: inner.finish(self._decision(done), self._event(event), inward))
        return self._settle(DONE, result)

    def _knowing(self) -> Agent[Any]:
        """Return the agent; as after a cut, where it missed a result that was taken."""
        if self._stale and self._begun is not None:
            self._stale = False
            self.inner = self._make()
            results = self.places.inward(list(self._results()))
            self.inner.begin(self._event(self._begun), results)
        return self.inner

    def _event(self, event: Event) -> Event:
        payload = self.places.inward(event.payload)
        return Event(**{**vars(event), "payload": payload})

    def _decision(self, decision: Any) -> Any:
        if isinstance(decision, Choice):
            return Choice(decision.name, self.places.inward(dict(decision.args)))
        fields = decision.model_dump()
        inward = self.places.inward(fields)
        return decision if inward == fields else type(decision).model_validate(inward)

    def _told(self, call: Callable[[], Result]) -> Result:
        """Return the result, or raise the tool's error, in the recorded paths."""
        try:
            result = call()
        except ToolError as error:
            raise type(error)(self.places.outward(error.what)) from error
        outward = self.places.outward
        publish = [
            NewEvent(e.event_type, outward(e.payload), e.target, e.dedup_key)
            for e in result.publish
        ]
        return Result(
            outward(result.value),
            result.trusted,
            publish,
            outward(result.remember),
            result.ask,
            result.effect,
        )


class _Inward:
    """A payload's model that reads recorded paths as those of the fixture."""

    def __init__(self, model: type[BaseModel], places: Places) -> None:
        self._model, self._places = model, places

    def model_validate(self, payload: Any) -> BaseModel:
        return self._model.model_validate(self._places.inward(payload))


def runs(name: str, agent: type[Agent[Any]], *, live_effects: bool) -> bool:
    """Whether a replay carries this decision out itself."""
    if name in REGISTRY:
        return live_effects or name in READS
    return live_effects or name in agent.reads
