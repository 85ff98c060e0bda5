"""Many calls in one batch: answers as if alone, slots and memory bounded."""

import json
import random
import weakref
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from agentd.model_server.calls import Call, Refused
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from agentd.states import Priority
from tests import tiny_models
from tests.stepped_engine import SCHEMA, Breaks, Run, call_of, chat
from tests.stepped_engine import engine as engine
from tests.stepped_engine import folder as folder
from tests.stepped_engine import tiny as tiny


@pytest.mark.parametrize("pipelined", [False, True])
def test_the_same_answers_alone_and_in_a_batch(folder: Path, pipelined: bool) -> None:
    """Rows that join, leave and are cancelled at random answer as each does alone, cold."""
    choose = random.Random(7)
    language = ModelLanguage(folder)
    alone = MlxEngine(folder, language, fast_blas=True, cache_bytes=1, slots=1)
    together = Run(MlxEngine(folder, language, fast_blas=True, slots=6, pipelined=pipelined))
    words = ["alpha ", "beta ", "</event>\n", "gamma ", "delta 12 "]
    waiting = []
    for number in range(24):
        fixed = f"You are agent {number % 4}. " * 6
        log = "".join(choose.choices(words, k=choose.randrange(1, 20)))
        given: dict[str, Any] = {
            **chat(language, fixed, log),
            "max_tokens": choose.randrange(2, 30),
            "temperature": choose.choice([0, 0, 0.8]),
            "seed": number,
        }
        masked = choose.random() < (0.15 if pipelined else 0.5)
        waiting.append((given, masked, choose.random() < 0.2))
    running: list[tuple[Call, dict[str, Any], bool, int]] = []
    finished: list[tuple[Call, dict[str, Any], bool]] = []
    while waiting or running:
        if waiting and len(running) < 6 and choose.random() < 0.4:
            given, masked, cancelled = waiting.pop()
            mask = language.mask(SCHEMA) if masked else None
            call = together.admit(call_of(**given, mask=mask))
            running.append((call, given, masked, choose.randrange(1, 9) if cancelled else 10**6))
        together.step()
        still = []
        for call, given, masked, left in running:
            if call.number in together.ends:
                finished.append((call, given, masked))
            elif left == 0:
                together.engine.remove(call)
            else:
                still.append((call, given, masked, left - 1))
        running = still
    assert not together.errors
    assert not together.failed_steps
    assert len(finished) > 15
    for call, given, masked in finished:
        own = Run(alone)
        again = own.admit(call_of(**given, mask=language.mask(SCHEMA) if masked else None))
        own.until(own.over(again))
        assert own.tokens[again.number] == together.tokens[call.number], given
        assert own.ends[again.number] == together.ends[call.number]
        if masked:
            assert json.loads(language.decode(together.tokens[call.number]))["tool"] == "answer"
    assert sum(call.cached_tokens for call, _given, _masked in finished) > 200


def test_the_next_pass_starts_before_tokens_are_known(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under masks too, so that the device never waits for a grammar: passes go before accepts.

    The tokens are begun by themselves: begun with the pass they would be known after it only.
    A row that is alone waits for its grammar where that may force more tokens, that go through the
    model in the same pass.
    """
    language = tiny[1]
    told: list[str] = []

    class Noted:
        def __init__(self, schema: Any) -> None:
            self.mask = language.mask(schema)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.mask, name)

        def accept(self, token: int) -> None:
            told.append("accept")
            self.mask.accept(token)

    def noted(tokens: Any) -> bool:
        told.append("pass")
        return False

    def admit() -> Call:
        mask: Any = Noted({"type": "string", "minLength": 30, "maxLength": 40})
        return run.admit(call_of(**chat(language, "text"), mask=mask))

    run = Run(engine)
    calls = [admit(), admit()]
    run.until(lambda: len(engine._decoding.batch) == 2)
    engine._decoding.batch._model = Breaks(engine._model, noted)
    run.step()  # from here on there is always a pass under way
    told.clear()
    begin: Any = mx.async_eval

    def begun(*arrays: Any) -> None:
        told.append("begin")
        begin(*arrays)

    with monkeypatch.context() as patch:
        patch.setattr(mx, "async_eval", begun)
        run.step()
    assert told == ["begin", "pass", "begin", "accept", "accept"]
    run.until(run.over(*calls))
    told.clear()
    alone = admit()
    run.until(run.over(alone))
    assert told[:4] == ["accept", "pass", "accept", "pass"]
    assert told[-5:] == ["pass", "accept", "pass", "accept", "accept"]  # the last one needs none


def test_admission_counts_rows_times_the_longest(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """One long row beside short ones makes all of them long: what would not fit waits."""
    language = tiny[1]
    run = Run(engine)
    size = engine._row_bytes(512)
    engine.budget = type(engine.budget)(size, size, batch=4 * size)
    short = language.encode("short ")
    for _ in range(4):
        run.admit(call_of(short, max_tokens=200))
    long = call_of(language.encode("long " * 80), max_tokens=100)
    assert 256 < len(long.prompt) + long.max_tokens <= 512
    assert not engine.fits(long)  # five rows of 512
    run.until(lambda: not engine._prefill.rows)
    assert engine.fits(call_of(short, max_tokens=8))  # five rows of 256
    with pytest.raises(Refused) as refused:
        engine.fits(call_of(short, max_tokens=4000))
    assert refused.value.code == "context_length_exceeded"
    engine.remove(engine._decoding.batch.rows[0].call)
    assert engine.fits(long)
    run.admit(long)
    engine.remove(engine._decoding.batch.rows[0].call)
    assert engine.fits(call_of(short, max_tokens=8))  # four rows of 512
    run.admit(call_of(short, max_tokens=8))
    assert not engine.fits(call_of(short, max_tokens=8))  # the short fifth would take 512 as well


def test_room_of_rows_that_left_is_given_back_where_it_is_needed(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """A batch keeps twice what it needs, and a prompt has caches of its own: not both."""
    folder, language = tiny
    run, calm = Run(engine), Run(MlxEngine(folder, language, fast_blas=True))
    size = engine._row_bytes(512)

    def given(count: int) -> list[Call]:
        tokens = language.encode("long " * 75)
        assert 256 < len(tokens) < 480
        return [call_of([7 + n, *tokens], max_tokens=24 - 20 * (n % 2)) for n in range(count)]

    wanted = [calm.admit(call) for call in given(5)]
    calm.until(calm.over(*wanted))
    assert engine._row_bytes(512, 3) == engine._row_bytes(512, 4) == 4 * size, "a place to spare"
    found = given(5)
    for call in found[:4]:
        run.admit(call)
    engine._prefill.piece_tokens = {True: 10**4, False: 10**4}  # in one pass: they join together
    run.until(lambda: len(engine._decoding.batch) == 4)
    assert engine._decoding.batch.nbytes == 4 * size
    run.until(run.over(*found[1:4:2]))
    assert len(engine._decoding.batch) == 2 and engine._decoding.batch.nbytes == 4 * size
    engine.budget = type(engine.budget)(size, size, batch=4 * size)
    assert engine.fits(found[4])
    run.admit(found[4])
    assert engine._decoding.batch.nbytes == 2 * size
    run.until(run.over(*found))
    assert not run.errors
    assert [run.tokens[c.number] for c in found] == [calm.tokens[c.number] for c in wanted]


def test_slots_bound_the_rows(tiny: tuple[Path, ModelLanguage]) -> None:
    """No more rows than slots, whatever the memory."""
    engine = MlxEngine(*tiny, fast_blas=True, slots=2)
    run = Run(engine)
    first = run.admit(call_of([5, 6, 7], max_tokens=30))
    run.admit(call_of([5, 6, 8], max_tokens=30))
    run.until(lambda: len(engine._decoding.batch) == 2)
    assert not engine.fits(call_of([5]))
    engine.remove(first)
    assert engine.fits(call_of([5]))


def test_a_person_finds_a_slot_and_a_place_in_prefill(
    tiny: tuple[Path, ModelLanguage],
) -> None:
    """Events wait in the fair queue behind two long prompts in prefill; a person's does not."""
    engine = MlxEngine(*tiny, fast_blas=True, slots=6)
    engine._prefill.best_rate = 50  # tokens a second
    run = Run(engine)
    event, person = call_of([5, 6, 7]), call_of([5, 6, 7], priority=Priority.PERSON)
    run.admit(call_of([5] * 30))
    run.admit(call_of([6] * 17))
    assert engine.fits(event)  # all three are read within a second
    engine.remove(engine._prefill.rows[1].call)
    run.admit(call_of([6] * 18))
    assert not engine.fits(event)
    assert engine.fits(person)
    engine._prefill.rows.clear()
    engine._prefill.best_rate = 10**6
    for _ in range(2):
        run.admit(call_of([5, 6, 7], max_tokens=200))
    assert engine.fits(person)
    for _ in range(3):
        run.admit(call_of([5, 6, 7], max_tokens=200))
    run.until(lambda: len(engine._decoding.batch) == 5)
    assert not engine.fits(event)  # the sixth slot is kept
    assert engine.fits(person)


def test_a_slow_machine_has_fewer_slots(tiny: tuple[Path, ModelLanguage]) -> None:
    """Where a step of many rows would take long, fewer are admitted: their deadlines run."""
    engine = MlxEngine(*tiny, fast_blas=True)
    for rate, slots in ((1, 1), (8, 2), (40, 10), (10**5, 16)):
        engine._prefill.best_rate = rate
        assert engine.slots == slots


def test_a_model_that_is_wrong_in_a_batch_takes_one_row(tmp_path: Path) -> None:
    """What mlx_lm cannot batch rightly is found at the start, not in somebody's answers."""
    folder = tiny_models.make("gemma2", tmp_path)
    assert MlxEngine(folder, ModelLanguage(folder), fast_blas=True).slots == 1


def test_the_models_that_can_batch_do(folder: Path) -> None:
    """The check at the start is no obstacle to those that are right."""
    engine = MlxEngine(folder, ModelLanguage(folder), fast_blas=True)
    engine._prefill.best_rate = 10**6
    assert engine.slots == 16


def test_a_closed_engine_holds_no_memory(tiny: tuple[Path, ModelLanguage]) -> None:
    """Unloading frees the weights and the caches at once, not when Python comes to it."""
    engine = MlxEngine(*tiny, fast_blas=True)
    run = Run(engine)
    call = run.admit(call_of(**chat(tiny[1], "hello")))
    run.until(run.over(call))
    model = weakref.ref(engine._model)
    engine.close()
    assert model() is None
