"""Many calls in one batch: answers as if alone, fair prefill, nothing spoiled by a failure."""

import json
import random
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from agentd.model_server.calls import Call, Refused
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from agentd.states import Priority
from tests import tiny_models

SCHEMA = {
    "type": "object",
    "properties": {
        "tool": {"const": "answer"},
        "text": {"type": "string", "maxLength": 12},
        "level": {"enum": ["low", "middle", "high"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["tool", "text", "level", "count"],
}
KINDS = ["llama", *tiny_models.CONFIGS]

SAVED = 10**8  # bytes of caches that may be written down


@pytest.fixture(scope="module", params=KINDS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    kind: str = request.param
    if kind == "llama":
        return tiny_model
    return tiny_models.make(kind, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> tuple[Path, ModelLanguage]:
    return tiny_model, ModelLanguage(tiny_model)


@pytest.fixture
def engine(tiny: tuple[Path, ModelLanguage]) -> MlxEngine:
    return MlxEngine(tiny[0], tiny[1], fast_blas=True)


class Run:
    """Steps an engine and keeps what each call got."""

    def __init__(self, engine: MlxEngine) -> None:
        self.engine = engine
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}
        self.errors: dict[int, Exception] = {}
        self.order: list[int] = []  # calls, as their first tokens came
        self.failed_steps = 0

    def admit(self, call: Call) -> Call:
        self.engine.admit(call)
        self.tokens[call.number] = []
        return call

    def step(self) -> None:
        try:
            advances = self.engine.step()
        except Exception as error:
            self.failed_steps += 1
            advances = self.engine.recover(error)
        for advance in advances:
            number = advance.call.number
            if advance.tokens and not self.tokens[number]:
                self.order.append(number)
            self.tokens[number] += advance.tokens
            if advance.error is not None:
                self.errors[number] = advance.error
            elif advance.finish:
                self.ends[number] = advance.finish

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(3000):
            if condition():
                return
            self.step()
        raise AssertionError("never came to pass")

    def over(self, *calls: Call) -> Callable[[], bool]:
        return lambda: all(c.number in self.ends or c.number in self.errors for c in calls)


def call_of(prompt: Sequence[int], **more: Any) -> Call:
    return Call(prompt, lambda piece: None, **{"max_tokens": 24, **more})


def chat(language: ModelLanguage, *contents: str) -> dict[str, Any]:
    roles = ["user"] if len(contents) == 1 else ["system", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    prompt = language.encode_chat(messages)
    return {"prompt": prompt.tokens, "checkpoints": prompt.checkpoints}


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


class Breaks:
    """Stands before a model: raises in chosen forward passes, else is the model."""

    def __init__(self, model: Any, when: Callable[[Any], bool]) -> None:
        self.model = model
        self.when = when
        self.layers = model.layers

    def __call__(self, tokens: Any, cache: Any) -> Any:
        logits = self.model(tokens, cache=cache)
        if self.when(tokens):
            raise RuntimeError("the step broke")  # with the caches half written
        return logits


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


def text_call(language: ModelLanguage) -> Call:
    mask = language.mask({"type": "string", "minLength": 30, "maxLength": 40})
    return call_of(**chat(language, "text"), mask=mask, max_tokens=50)


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


def test_caches_are_read_again_after_a_restart(folder: Path, tmp_path: Path) -> None:
    """What one process prefilled the next one does not; the file is private; answers are equal."""
    language = ModelLanguage(folder)
    saved = tmp_path / "caches.safetensors"
    given = chat(language, "These are the instructions. " * 8, "one event\n</event>\n")
    first = Run(MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=SAVED))
    cold = first.admit(call_of(**given))
    first.until(first.over(cold))
    first.engine.save()
    assert saved.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]
    second = Run(MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=SAVED))
    assert second.engine.counters()["cache_tokens"] == first.engine.counters()["cache_tokens"]
    assert second.engine.cache_bytes() == first.engine.cache_bytes()
    warm = second.admit(call_of(**given))
    second.until(second.over(warm))
    assert warm.cached_tokens > len(cold.prompt) - 20
    assert second.tokens[warm.number] == first.tokens[cold.number]


@pytest.mark.parametrize("damage", ["cut", "garbage", "other model", "empty"])
def test_a_useless_cache_file_is_removed(
    tiny: tuple[Path, ModelLanguage], tmp_path: Path, damage: str
) -> None:
    """A damaged file, or one of another model, costs a cold start and nothing else."""
    saved = tmp_path / "caches.safetensors"
    run = Run(MlxEngine(*tiny, fast_blas=True, saved=saved, saved_bytes=SAVED))
    call = run.admit(call_of(**chat(tiny[1], "Remember this. " * 9)))
    run.until(run.over(call))
    if damage == "other model":
        run.engine._identity = "another"
    run.engine.save()
    data = saved.read_bytes()
    saved.write_bytes(
        {"cut": data[: len(data) // 2], "garbage": b"x" * 99, "empty": b""}.get(damage, data)
    )
    again = MlxEngine(*tiny, fast_blas=True, saved=saved, saved_bytes=SAVED)
    assert again.cache_bytes() == 0
    assert not saved.exists()


def test_the_cache_file_is_bounded(folder: Path, tmp_path: Path) -> None:
    """What was used last stays in it, whole paths only; whatever many prompts there were."""
    language = ModelLanguage(folder)
    saved = tmp_path / "caches.safetensors"
    limit = 150_000
    run = Run(MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=limit))
    for number in range(6):
        call = run.admit(call_of(**chat(language, f"Instructions number {number}. " * 9)))
        run.until(run.over(call))
    assert run.engine.cache_bytes() > limit, "there is more than fits"
    run.engine.save()
    assert 0 < saved.stat().st_size < limit + 50_000
    again = MlxEngine(folder, language, fast_blas=True, saved=saved, saved_bytes=limit)
    assert 0 < again.cache_bytes() <= limit


def test_a_model_that_is_wrong_in_a_batch_takes_one_row(tmp_path: Path) -> None:
    """What mlx_lm cannot batch rightly is found at the start, not in somebody's answers."""
    folder = tiny_models.make("gemma2", tmp_path)
    assert MlxEngine(folder, ModelLanguage(folder), fast_blas=True).slots == 1


def test_the_models_that_can_batch_do(folder: Path) -> None:
    """The check at the start is no obstacle to those that are right."""
    engine = MlxEngine(folder, ModelLanguage(folder), fast_blas=True)
    engine._prefill.best_rate = 10**6
    assert engine.slots == 16


def test_checkpoints_of_a_long_log_are_few(tmp_path: Path) -> None:
    """A log of many events leaves its fixed part's end and its last ones, whoever prefilled it."""
    folder = tiny_models.make("qwen3_5", tmp_path)
    language = ModelLanguage(folder)
    run = Run(MlxEngine(folder, language, fast_blas=True))
    log = ""
    for turn in range(12):
        log += f'<event type="result" ts="{turn}">\n{{"line": "{turn * 7} and so on"}}\n</event>\n'
        call = run.admit(call_of(**chat(language, "Do this. " * 5, log), max_tokens=2))
        assert len(run.engine._prefill.rows[0].marks) <= 3
        run.until(run.over(call))
    nodes = run.engine._caches.nodes()
    assert sum(node.states is not None for node in nodes) <= 4
    again = run.admit(call_of(**chat(language, "Do this. " * 5, log), max_tokens=2))
    run.until(run.over(again))
    assert again.cached_tokens >= again.checkpoints[-2]


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


def test_a_closed_engine_holds_no_memory(tiny: tuple[Path, ModelLanguage]) -> None:
    """Unloading frees the weights and the caches at once, not when Python comes to it."""
    engine = MlxEngine(*tiny, fast_blas=True)
    run = Run(engine)
    call = run.admit(call_of(**chat(tiny[1], "hello")))
    run.until(run.over(call))
    model = weakref.ref(engine._model)
    engine.close()
    assert model() is None
