"""A pass that breaks spoils no answer but that of the call that broke it."""

from pathlib import Path
from typing import Any

import pytest

from agentd.model_server.calls import Call, Refused
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from tests import tiny_models
from tests.stepped_engine import SCHEMA, Breaks, Run, call_of, chat, text_call
from tests.stepped_engine import engine as engine
from tests.stepped_engine import tiny as tiny


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_broken_step_spoils_no_answer(tiny: tuple[Path, ModelLanguage], pipelined: bool) -> None:
    """Rows begin again from their tokens: all answers are what they are without the failure."""
    folder, language = tiny
    given = [chat(language, f"row {n} " * (n + 1)) for n in range(4)]

    def calls(run: Run) -> list[Call]:
        made = [call_of(**one, max_tokens=30) for one in given]
        mask = None if pipelined else language.mask(SCHEMA)
        made.append(call_of(**given[0], mask=mask, temperature=1, seed=5, max_tokens=60))
        return [run.admit(call) for call in made]

    calm = Run(MlxEngine(folder, language, fast_blas=True))
    engine = MlxEngine(folder, language, fast_blas=True, pipelined=pipelined)
    wanted = calls(calm)
    calm.until(calm.over(*wanted))
    failures = iter([True, False, False, True])
    run = Run(engine)
    found = calls(run)
    run.until(lambda: len(engine._decoding.batch) == 5)
    engine._decoding.batch._model = Breaks(engine._model, lambda tokens: next(failures, False))
    run.until(lambda: not len(engine._decoding.batch))
    engine._decoding.batch._model = Breaks(engine._model, lambda tokens: next(failures, False))
    run.until(run.over(*found))
    assert not run.errors
    assert next(failures, None) is None
    assert [run.tokens[c.number] for c in found] == [calm.tokens[c.number] for c in wanted]


def test_a_cancelled_call_is_gone_though_the_batch_broke(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled before it joins, and to join breaks: the others begin again, it does not."""
    language = tiny[1]
    run = Run(engine)
    other = run.admit(call_of(**chat(language, "a story"), max_tokens=40))
    run.until(lambda: len(run.tokens[other.number]) > 2)
    gone = run.admit(call_of(**chat(language, "another story"), max_tokens=400))
    run.until(lambda: bool(engine._joining))

    def broken(_batch: object) -> None:
        raise RuntimeError("[malloc] Unable to allocate")

    with monkeypatch.context() as patched:
        patched.setattr(engine._decoding.batch, "take_in", broken)
        engine.remove(gone)
    assert [row.call for row in (*engine._prefill.rows, *engine._decoding.rows)] == [other]
    run.until(run.over(other))
    assert not run.errors


def test_the_call_that_breaks_steps_is_found_and_given_up(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """One call that breaks every step it is in fails alone; the others finish."""
    language = tiny[1]
    run = Run(engine)
    good = [run.admit(call_of(**chat(language, f"row {n}"), max_tokens=12)) for n in range(3)]
    bad = run.admit(call_of(**chat(language, "poison"), max_tokens=12))

    def poisoned(tokens: Any) -> bool:
        return any(row.call is bad for row in engine._decoding.batch.rows)

    for _ in range(200):
        engine._decoding.batch._model = Breaks(engine._model, poisoned)
        run.step()
        if run.over(*good, bad)():
            break
    assert set(run.errors) == {bad.number}
    assert all(call.number in run.ends for call in good)


def test_a_pass_that_breaks_at_a_steps_end_is_the_next_steps_error(
    tiny: tuple[Path, ModelLanguage],
) -> None:
    """That step's token is delivered, and the call answers as if nothing had been."""
    folder, language = tiny
    call, run = breaks_at_a_steps_end(folder, language)
    calm = Run(MlxEngine(folder, language, fast_blas=True))
    wanted = calm.admit(text_call(language))
    calm.until(calm.over(wanted))
    assert run.failed_steps == 0 and run.tokens[call.number]
    run.step()
    assert run.failed_steps == 1
    run.until(run.over(call))
    assert run.tokens[call.number] == calm.tokens[wanted.number]


def test_a_pass_that_broke_is_forgotten_with_its_rows(tiny: tuple[Path, ModelLanguage]) -> None:
    """Who comes after them begins with no failed step."""
    folder, language = tiny
    gone, run = breaks_at_a_steps_end(folder, language)
    run.engine.remove(gone)
    other = run.admit(call_of(**chat(language, "another one"), max_tokens=9))
    run.until(run.over(other))
    assert not run.failed_steps and not run.errors


def breaks_at_a_steps_end(folder: Path, language: ModelLanguage) -> tuple[Call, Run]:
    """Decode one token of a call whose next pass waits for its grammar, and have that one raise."""
    run = Run(MlxEngine(folder, language, fast_blas=True))
    call = run.admit(text_call(language))
    run.until(lambda: len(run.engine._decoding.batch) == 1)
    breaks = iter([False, True])
    model = Breaks(run.engine._model, lambda tokens: next(breaks, False))
    run.engine._decoding.batch._model = model
    run.step()
    assert next(breaks, None) is None
    return call, run


def test_a_failing_mask_is_one_calls_fault(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """A grammar that hits its limits in the middle of an answer ends that answer alone."""

    class Broken:
        finished = False

        def forced(self) -> list[int]:
            return []

        matcher = None

        def narrow(self, bits: Any) -> None:
            raise Refused("the schema became too complex", code="unsupported_schema")

        def accept(self, token: int) -> None:
            raise AssertionError

        def close(self) -> list[int]:
            return []

    language = tiny[1]
    run = Run(engine)
    good = run.admit(call_of(**chat(language, "fine"), max_tokens=12))
    bad = run.admit(call_of(**chat(language, "not fine"), mask=Broken()))
    run.until(run.over(good, bad))
    assert isinstance(run.errors[bad.number], Refused)
    assert run.ends[good.number]


def test_a_prompt_that_breaks_breaks_its_own_call(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """Prefill happens in the row's own caches: the rows that decode do not even notice."""
    language = tiny[1]
    run = Run(engine)
    good = run.admit(call_of(**chat(language, "fine"), max_tokens=40))
    run.until(lambda: bool(run.tokens[good.number]))
    whole = engine._model
    engine._prefill._model = Breaks(whole, lambda tokens: tokens.shape[1] > 1)
    bad = run.admit(call_of(**chat(language, "not fine")))
    run.step()
    engine._prefill._model = whole
    assert list(run.errors) == [bad.number]
    run.until(run.over(good))
    assert len(run.tokens[good.number]) == 40 or run.ends[good.number] == "stop"


def test_a_prompt_that_breaks_a_shared_pass_breaks_its_own_call(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """The others of that pass begin again, alone, and answer as if nothing had been."""
    folder, language = tiny
    given = [{**chat(language, f"row {n} " * (n + 1)), "max_tokens": 9} for n in range(4)]
    calm, run = Run(MlxEngine(folder, language, fast_blas=True)), Run(engine)
    wanted = [calm.admit(call_of(**one)) for one in given]
    calm.until(calm.over(*wanted))
    found = [run.admit(call_of(**one)) for one in given]
    poison = language.encode("poison")
    bad = run.admit(call_of(poison))
    engine._prefill.piece_tokens = {True: 10**4, False: 10**4}  # in one pass, however slow it is
    engine._prefill._model = Breaks(
        engine._model,
        lambda tokens: any(row[: len(poison) - 1] == poison[:-1] for row in tokens.tolist()),
    )
    run.step()
    assert engine.counters()["prefill_failures_total"] == 1
    run.until(run.over(*found, bad))
    assert list(run.errors) == [bad.number] and not run.failed_steps
    assert [run.tokens[c.number] for c in found] == [calm.tokens[c.number] for c in wanted]


def test_checkpoints_of_a_prompt_that_begins_again_are_taken_again(tmp_path: Path) -> None:
    """Else who begins alike would read all of it, until somebody comes by there once more."""
    folder = tiny_models.make("qwen3_5", tmp_path)
    language = ModelLanguage(folder)
    run = Run(engine := MlxEngine(folder, language, fast_blas=True))

    def begun_alike(word: str) -> Call:
        given = chat(language, "Do this. " * 5, word)
        return call_of(given["prompt"], checkpoints=given["checkpoints"][:1], max_tokens=2)

    call = run.admit(begun_alike("one"))
    run.until(lambda: bool(engine._prefill.rows[0].states))
    run.admit(call_of(language.encode("another one"), max_tokens=2))
    engine._prefill.piece_tokens = {True: 10**4, False: 10**4}
    engine._prefill._model = Breaks(engine._model, lambda tokens: tokens.shape[0] > 1)
    run.step()
    assert engine.counters()["prefill_failures_total"] == 1
    engine._prefill._model = engine._model
    run.until(run.over(call))
    other = run.admit(begun_alike("two"))
    run.until(run.over(other))
    assert other.cached_tokens >= other.checkpoints[0] > 0


def test_what_is_read_beside_a_broken_step_stands(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine
) -> None:
    """A step that raises while a piece of a prompt is computed beside it: none of both is lost."""
    folder, language = tiny
    given = [
        {**chat(language, "a story"), "max_tokens": 60},
        {"prompt": language.encode("A long story. " * 20), "max_tokens": 9},
    ]
    calm, run = Run(MlxEngine(folder, language, fast_blas=True)), Run(engine)
    wanted = [calm.admit(call_of(**one)) for one in given]
    calm.until(calm.over(*wanted))
    found = [run.admit(call_of(**given[0]))]
    run.until(lambda: bool(run.tokens[found[0].number]))
    found.append(run.admit(call_of(**given[1])))
    engine._prefill.piece_tokens[True] = 10**4
    engine._decoding.batch._model = Breaks(engine._model, lambda tokens: True)
    run.step()
    assert run.failed_steps == 1
    run.until(run.over(*found))
    assert not run.errors
    assert [run.tokens[c.number] for c in found] == [calm.tokens[c.number] for c in wanted]


def test_a_cache_that_fails_costs_time_only(
    tiny: tuple[Path, ModelLanguage], engine: MlxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept or found again is computed; no call notices."""
    language = tiny[1]
    calm = Run(MlxEngine(tiny[0], language, fast_blas=True))
    wanted = calm.admit(call_of(**chat(language, "hello")))
    calm.until(calm.over(wanted))

    def fail(*_args: object) -> None:
        raise RuntimeError("[malloc] Unable to allocate")

    for part in ("put", "take"):
        monkeypatch.setattr(engine._caches, part, fail)
    run = Run(engine)
    calls = [run.admit(call_of(**chat(language, "hello"))) for _ in range(3)]
    run.until(run.over(*calls))
    assert not run.errors and not run.failed_steps
    assert all(run.tokens[call.number] == calm.tokens[wanted.number] for call in calls)
    assert engine.counters()["cache_failures_total"] > 0
