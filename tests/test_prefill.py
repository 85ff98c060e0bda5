"""Prompts are read in fair pieces, together, and only as far as they are new."""

import random
from pathlib import Path
from typing import Any

import pytest

from agentd.model_server.calls import Call
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from agentd.states import Priority
from tests.stepped_engine import SCHEMA, Breaks, Run, call_of, chat
from tests.stepped_engine import engine as engine
from tests.stepped_engine import folder as folder
from tests.stepped_engine import tiny as tiny


def test_a_growing_log_prefills_only_what_is_new(folder: Path) -> None:
    """Over eight turns, what is prefilled is what was not there before, whatever the caches."""
    language = ModelLanguage(folder)
    run = Run(MlxEngine(folder, language, fast_blas=True))
    fixed, log, before = "These are the instructions. " * 8, "", 0
    for turn in range(8):
        log += f'<event type="result" ts="{turn}">\n{{"line": "{turn * 7} and so on"}}\n</event>\n'
        call = run.admit(call_of(**chat(language, fixed, log), max_tokens=4))
        run.until(run.over(call))
        tail = len(language.encode_chat([{"role": "user", "content": ""}]).tokens)
        assert call.cached_tokens >= before - tail
        before = len(call.prompt)
    # Another agent with the same fixed part begins behind it, in the same tokens.
    other = run.admit(call_of(**chat(language, fixed, "something else"), max_tokens=4))
    run.until(run.over(other))
    assert other.cached_tokens >= len(language.encode(fixed))


def test_others_decode_while_a_long_prompt_arrives(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """Between two pieces of a cold prompt's prefill every decoding row gets its token."""
    language = tiny[1]
    run = Run(engine)
    short = [run.admit(call_of(**chat(language, f"hello {n}"), max_tokens=400)) for n in range(3)]
    run.until(lambda: all(len(run.tokens[call.number]) > 1 for call in short))  # all decode
    long = run.admit(call_of(language.encode("A long story. " * 90), max_tokens=2))
    pieces = 0
    while not run.tokens[long.number] and len(run.ends) < 3:
        engine._prefill.piece_tokens[True] = 32
        counts = {c.number: len(run.tokens[c.number]) for c in short if c.number not in run.ends}
        run.step()
        pieces += 1
        for number, count in counts.items():
            assert len(run.tokens[number]) == count + 1 or number in run.ends
    assert pieces > 5


def test_a_prompt_that_is_read_joins_before_the_next_step(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' tokens wait for its last piece or for its caches to be copied, never for both."""
    language = tiny[1]
    run = Run(engine)
    told: list[str] = []

    def note(thing: Any, method: str) -> None:
        real = getattr(thing, method)

        def noted(*given: Any) -> Any:
            told.append(method)
            return real(*given)

        monkeypatch.setattr(thing, method, noted)

    short = run.admit(call_of(**chat(language, "a story"), max_tokens=300))
    run.until(lambda: len(run.tokens[short.number]) > 1)
    note(engine._decoding.batch, "take_in")
    note(engine._prefill, "begin")
    prompts = [language.encode(f"{n} long stories. " * 9) for n in (1, 2)]
    first, _second = (run.admit(call_of(prompt, max_tokens=9)) for prompt in prompts)
    engine._prefill.piece_tokens[True] = len(first.prompt)
    run.step()
    assert told == ["begin"]
    assert engine.counters()["decoding"] == 2
    told.clear()
    # It took as long as a piece may take, or longer.
    monkeypatch.setattr(engine._prefill, "piece_s", lambda busy: 1e-9)
    run.step()
    assert told == ["take_in"]
    assert run.tokens[first.number]  # the others' pass did not start without it
    run.step()
    assert told == ["take_in", "begin"]


def test_a_piece_grows_by_what_was_measured(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """However fast short prompts are, they promise nothing of a piece of many times their length:
    the first one of a cold prompt would hold up the others for as long as it takes."""
    prefill = engine._prefill
    engine.admit(call_of(tiny[1].encode("A story.")))
    (row,) = prefill.rows
    prefill.piece_tokens[True] = 100
    for _ in range(9):
        prefill.timed(row, 40, 1e-6, busy=True)
    assert prefill.piece_tokens[True] == 100
    prefill.timed(row, 80, 1e-6, busy=True)
    assert prefill.piece_tokens[True] == 120
    prefill.timed(row, 120, 120.0, busy=True)
    assert prefill.piece_tokens[True] == 1


def test_a_short_prompt_does_not_wait_for_a_long_one(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """A prompt that had its quantum of prefill lets others go first, and is not starved by them."""
    language = tiny[1]
    run = Run(engine)
    long = run.admit(call_of(language.encode("A long story. " * 90), max_tokens=2))
    row = engine._prefill.rows[0]
    engine._prefill.piece_tokens[False] = 16
    run.step()
    row.quanta += 1  # as after a second
    short = run.admit(call_of(**chat(language, "hello"), max_tokens=1))
    later = run.admit(call_of(**chat(language, "hello again"), max_tokens=1))
    # Newcomers start where the least served is, so the long one's second turn comes before theirs.
    assert [other.quanta for other in engine._prefill.rows] == [1, 1, 1]
    row.quanta += 1
    run.until(run.over(long, short, later))
    assert run.order == [short.number, later.number, long.number]


def test_a_cached_prompt_joins_the_others_without_a_pass_of_its_own(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """Its last token goes with the next step; the answer is what it is alone."""
    language = tiny[1]
    run = Run(engine)
    alone = run.admit(call_of(**chat(language, "once more"), max_tokens=8))
    run.until(run.over(alone))
    other = run.admit(call_of(**chat(language, "hello"), max_tokens=400))
    run.until(lambda: bool(run.tokens[other.number]))
    engine._prefill._model = Breaks(engine._model, lambda tokens: True)
    again = run.admit(call_of(**chat(language, "once more"), max_tokens=8))
    run.until(run.over(again))
    assert run.tokens[again.number] == run.tokens[alone.number]
    assert again.cached_tokens == len(again.prompt) - 1


def answered_while_another_decodes(run: Run, language: ModelLanguage, count: int) -> list[Call]:
    """Return calls that were answered, and leave another one decoding."""
    texts = [f"{number} more stories" for number in range(count)]
    calls = [run.admit(call_of(**chat(language, text), max_tokens=8)) for text in texts]
    run.until(run.over(*calls))
    other = run.admit(call_of(**chat(language, "hello"), max_tokens=400))
    run.until(lambda: bool(run.tokens[other.number]))
    return calls


@pytest.mark.parametrize("long", [False, True])
def test_cached_prompts_join_the_others_all_at_once(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    """One a step, the last of many would wait for as many steps. But where it takes long to copy
    what is known of them, the others do not wait for all of it."""
    run = Run(engine)
    alone = answered_while_another_decodes(run, tiny[1], 5)
    again = [run.admit(call_of(call.prompt, max_tokens=8)) for call in alone]
    monkeypatch.setattr(engine._prefill, "piece_s", lambda busy: 1e-9 if long else 60.0)
    run.step()
    run.step()
    joined = 1 if long else len(again)
    assert [len(run.tokens[call.number]) for call in again] == [1] * joined + [0] * (5 - joined)
    run.until(run.over(*again))
    assert [run.tokens[c.number] for c in again] == [run.tokens[c.number] for c in alone]


@pytest.mark.parametrize("unread", range(3))
def test_caches_that_cannot_be_read_cost_a_prompt_its_time_alone(
    tiny: tuple[Path, ModelLanguage],
    engine: MlxEngine,
    monkeypatch: pytest.MonkeyPatch,
    unread: int,
) -> None:
    """Of several that seemed to be known the ones before it join, and those behind it are read."""
    run = Run(engine)
    alone = answered_while_another_decodes(run, tiny[1], 3)
    take, taken = engine._caches.take, 0

    def reading(tokens: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == unread + 1:
            raise OSError("it cannot be read")
        return take(tokens)

    monkeypatch.setattr(engine._caches, "take", reading)
    again = [run.admit(call_of(call.prompt, max_tokens=8)) for call in alone]
    run.until(run.over(*again))
    assert [run.tokens[c.number] for c in again] == [run.tokens[c.number] for c in alone]
    assert not run.failed_steps and not run.errors


class Watched:
    """Stands before a model that prefills: keeps the shapes of its passes, [rows, tokens]."""

    def __init__(self, engine: MlxEngine) -> None:
        self.model = engine._model
        self.layers = engine._model.layers
        self.shapes: list[tuple[int, int]] = []
        engine._prefill._model = self

    def __call__(self, tokens: Any, cache: Any) -> Any:
        self.shapes.append(tokens.shape)
        return self.model(tokens, cache=cache)


def test_short_prompts_share_a_pass(tiny: tuple[Path, ModelLanguage], engine: MlxEngine) -> None:
    """Prompts that fit into a piece together are read in one pass, and answered in the next."""
    language = tiny[1]
    run, watched = Run(engine), Watched(engine)
    engine._prefill.piece_tokens[False] = 10**4  # in one pass, however slow it is
    texts = ("a b", "b c d e", "c d")
    calls = [run.admit(call_of(language.encode(text), max_tokens=9)) for text in texts]
    run.step()
    run.step()
    assert all(len(run.tokens[call.number]) == 1 for call in calls)
    assert watched.shapes == [(3, len(language.encode("b c d e")) - 1)]


def test_the_same_answers_when_prompts_are_read_together(folder: Path) -> None:
    """Short prompts of different lengths, each behind another beginning, some known, some not."""
    language, choose = ModelLanguage(folder), random.Random(5)
    alone = MlxEngine(folder, language, fast_blas=True, cache_bytes=1, slots=1)
    together = Run(MlxEngine(folder, language, fast_blas=True))
    together.engine._prefill.best_rate = 10**6  # a place in prefill for all of them
    watched = Watched(together.engine)
    logs = ["" for _ in range(6)]
    for turn in range(4):
        calls = []
        for number, fixed in enumerate(f"You are agent {n}. " * (n + 1) for n in range(6)):
            if turn == 0 and number == 5:
                continue  # comes later, cold
            logs[number] += f"event {choose.randrange(10**6)} " * choose.randrange(1, 4)
            logs[number] += "</event>\n"
            mask = language.mask(SCHEMA) if number % 2 else None
            given = {**chat(language, fixed, logs[number]), "max_tokens": 9}
            calls.append((given, together.admit(call_of(**given, mask=mask))))
        together.engine._prefill.piece_tokens = {True: 10**4, False: 10**4}
        together.until(together.over(*(call for _given, call in calls)))
        for given, call in calls:
            own = Run(alone)
            mask = language.mask(SCHEMA) if call.mask else None
            again = own.admit(call_of(**given, mask=mask))
            own.until(own.over(again))
            assert own.tokens[again.number] == together.tokens[call.number]
    assert not together.errors and not together.failed_steps
    assert max(rows for rows, _tokens in watched.shapes) > 4
    assert sum(call.cached_tokens for _given, call in calls) > 300


def test_a_common_beginning_is_read_once(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """Prompts that begin alike do not share the first pass: it fills the caches for the others."""
    language = tiny[1]
    run, watched = Run(engine), Watched(engine)
    engine._prefill.piece_tokens = {True: 10**4, False: 10**4}
    fixed = "These are the instructions for all. " * 6
    calls = [run.admit(call_of(**chat(language, fixed, f"{n} " * (n + 3)))) for n in range(4)]
    run.until(lambda: not engine._prefill.rows)
    first, *others = calls
    assert first.cached_tokens == 0
    assert all(call.cached_tokens >= len(language.encode(fixed)) for call in others)
    assert [rows for rows, _tokens in watched.shapes] == [1, 3]


def test_a_person_is_prefilled_before_a_schedule(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """Among admitted prompts the class decides, then who came first."""
    language = tiny[1]
    run = Run(engine)
    calls = {
        priority: run.admit(
            call_of(language.encode(f"{priority} " * 9), priority=priority, max_tokens=1)
        )
        for priority in (Priority.SCHEDULE, Priority.EVENT, Priority.PERSON)
    }
    run.until(run.over(*calls.values()))
    assert run.order == [
        calls[priority].number for priority in (Priority.PERSON, Priority.EVENT, Priority.SCHEDULE)
    ]


def test_a_prompt_in_prefill_is_not_starved(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline runs: with time a schedule's prompt goes before new events."""
    language = tiny[1]
    run = Run(engine)
    schedule = run.admit(
        call_of(language.encode("x " * 40), priority=Priority.SCHEDULE, max_tokens=1)
    )
    event = run.admit(call_of(language.encode("y " * 40), max_tokens=1))
    engine._prefill.rows[0].prefill_since -= 11
    run.until(run.over(schedule, event))
    assert run.order == [schedule.number, event.number]
