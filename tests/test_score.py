"""Scores: the log-probabilities of items behind heads are those of a pass of the bare model."""

import http.client
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from agentd.errors import CallDeadline
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.model_server.calls import Advance, Call, Refused, Scoring
from agentd.model_server.engine import scoring as scoring_room
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.engine.weights import load_weights
from agentd.model_server.http import scores
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import ScriptedEngine, make_tiny
from tests import tiny_models
from tests.serving import NAME, TOKEN, Serving, serving, wait_for
from tests.stepped_engine import Run, call_of, chat
from tests.stepped_engine import folder as folder
from tests.test_model_server import Gate, start

HEADS = ["The reader likes football.", "The reader likes everything, and more of it. " * 3, ""]
ITEMS = [" Arsenal won.", " A new park was opened in the north of the town.", " x", " " + "y" * 70]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Serving]:
    def load(language: Any) -> MlxEngine:
        return MlxEngine(tiny_model, language, fast_blas=True)

    with serving(load, lambda: ModelLanguage(tiny_model)) as server:
        yield server


def scoring_of(
    language: ModelLanguage, heads: Sequence[str] = HEADS, items: Sequence[str] = ITEMS
) -> Scoring:
    pairs = [language.encode_pairs(head, items, limit=2048) for head in heads]
    return Scoring([head for head, _ in pairs], [behind for _, behind in pairs])


def score_call(scoring: Scoring, **more: Any) -> Call:
    return call_of([], scoring=scoring, **more)


def bare(folder: Path, scoring: Scoring, model: Any = None) -> list[list[float]]:
    """Return the scores by one pass of the bare model for each whole text."""
    model = model or mlx_lm.utils.load_model(folder)[0]

    def score(head: Sequence[int], item: Sequence[int]) -> float:
        logits: Any = model(mx.array([[*head, *item]]))[0, len(head) - 1 : -1].astype(mx.float32)
        likely = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        total: Any = mx.take_along_axis(likely, mx.array(list(item))[:, None], axis=-1).sum().item()
        return float(total)

    return [
        [score(head, item) for item in items]
        for head, items in zip(scoring.heads, scoring.items, strict=True)
    ]


def near(scores: list[list[float]], wanted: list[list[float]]) -> bool:
    return all(a == pytest.approx(b, abs=1e-3) for a, b in zip(scores, wanted, strict=True))


@pytest.mark.parametrize("tokens", [5, 64, 2000])
def test_scores_are_those_of_a_whole_pass(
    folder: Path, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small pieces and large ones, cold and behind cached heads, with any kind of cache."""
    monkeypatch.setattr(scoring_room, "TOKENS_MIN", {True: 1, False: 1})
    language = ModelLanguage(folder)
    run = Run(MlxEngine(folder, language, fast_blas=True))
    wanted = bare(folder, scoring_of(language))
    for _ in range(2):
        run.engine._prefill.piece_tokens = {True: tokens, False: tokens}
        scoring = scoring_of(language)
        call = run.admit(score_call(scoring))
        run.until(run.over(call))
        assert run.ends[call.number] == "scored"
        assert near(scoring.scores, wanted)
    heads = sum(len(head) - 1 for head in scoring.heads)
    assert call.cached_tokens == heads  # of the second time; the empty head has one token


def test_scores_are_the_same_while_eight_others_decode(folder: Path) -> None:
    """Rows that decode take nothing of it, nor it of them: each step gives them their token."""
    language = ModelLanguage(folder)
    engine = MlxEngine(folder, language, fast_blas=True)
    run, alone = Run(engine), Run(MlxEngine(folder, language, fast_blas=True, slots=1))
    given = [{**chat(language, f"Number {n}, " * (n + 1)), "max_tokens": 90} for n in range(8)]
    others = [run.admit(call_of(**each)) for each in given]
    # Two tokens: with its first one a row may miss the pass that is under way.
    run.until(lambda: all(len(run.tokens[c.number]) > 1 or run.over(c)() for c in others))
    engine._prefill.piece_tokens[True] = 16
    scoring = scoring_of(language)
    call = run.admit(score_call(scoring))
    while not run.over(call)():
        before = {other.number: len(run.tokens[other.number]) for other in others}
        run.step()
        for other in others:
            assert len(run.tokens[other.number]) > before[other.number] or run.over(other)()
    assert near(scoring.scores, bare(folder, scoring))
    run.until(run.over(*others))
    for other, each in zip(others, given, strict=True):
        own = alone.admit(call_of(**each))
        alone.until(alone.over(own))
        assert run.tokens[other.number] == alone.tokens[own.number]


def test_heads_stay_in_the_cache_and_items_do_not(tiny_model: Path) -> None:
    """A later request prefills no head again; items would only push others' prompts out."""
    language = ModelLanguage(tiny_model)
    engine = MlxEngine(tiny_model, language, fast_blas=True)
    run = Run(engine)
    scoring = scoring_of(language)
    run.until(run.over(run.admit(score_call(scoring))))
    texts = [head[:-1] for head in scoring.heads if len(head) > 1]
    shared = next(n for n, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1)
    assert engine._caches.tokens == sum(map(len, texts)) - shared


def test_a_removed_call_keeps_the_heads_that_it_read(tiny_model: Path) -> None:
    """A client that asks again after a hang-up goes on where it was."""
    language = ModelLanguage(tiny_model)
    engine = MlxEngine(tiny_model, language, fast_blas=True)
    engine._prefill.piece_tokens = {True: 8, False: 8}
    run = Run(engine)
    call = run.admit(score_call(scoring_of(language)))
    run.until(lambda: bool(call.scoring and call.scoring.scores))
    engine.remove(call)
    assert engine.step() == []
    again = run.admit(score_call(scoring_of(language)))
    run.until(run.over(again))
    assert again.cached_tokens > 0


def test_prompts_do_not_wait_for_scores(tiny_model: Path) -> None:
    """Two calls that score for minutes leave room for an answer; a third of them waits."""
    language = ModelLanguage(tiny_model)
    engine = MlxEngine(tiny_model, language, fast_blas=True)
    engine._prefill.piece_tokens = {True: 1, False: 1}
    run = Run(engine)
    calls = [run.admit(score_call(scoring_of(language))) for _ in range(2)]
    assert engine.fits(call_of(**chat(language, "hello")))
    assert not engine.fits(score_call(scoring_of(language)))
    first = engine._prefill.rows[0]
    first.prefill_since = 0.0  # as if it had waited for very long
    run.until(lambda: bool(calls[0].scoring and calls[0].scoring.scores))
    assert first.prefill_since > 0, "it begins each head as a prompt that has just come"


def test_a_model_that_is_wrong_in_a_batch_scores_one_item_at_a_time(tmp_path: Path) -> None:
    """Whatever batches break in a model, its scores are right."""
    folder = tiny_models.make("gemma2", tmp_path)
    language = ModelLanguage(folder)
    run = Run(MlxEngine(folder, language, fast_blas=True))
    scoring = scoring_of(language)
    run.until(run.over(run.admit(score_call(scoring))))
    assert near(scoring.scores, bare(folder, scoring))


def test_a_pass_gives_a_bounded_number_of_logits(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions times vocabulary stay within what one pass may take of the memory."""
    monkeypatch.setattr(scoring_room, "LOGITS_MAX", 7 * 266)
    language = ModelLanguage(tiny_model)
    engine = MlxEngine(tiny_model, language, fast_blas=True)
    sizes: list[int] = []
    model = engine._scorer._model

    def watched(tokens: Any, cache: Any) -> Any:
        sizes.append(tokens.size)
        return model(tokens, cache=cache)

    engine._scorer._model = watched
    run, scoring = Run(engine), scoring_of(language)
    run.until(run.over(run.admit(score_call(scoring))))
    assert max(sizes) <= 7
    assert near(scoring.scores, bare(tiny_model, scoring))


def test_the_bundled_models_scores_are_its_own(smollm2: Path) -> None:
    """Quantised weights and a real tokenizer: the same, with float32 activations."""
    language = ModelLanguage(smollm2)
    engine = MlxEngine(smollm2, language, fast_blas=False)
    run, scoring = Run(engine), scoring_of(language, ["I like football."], [" Yes.", " He scored."])
    run.until(run.over(run.admit(score_call(scoring))))
    model = load_weights(smollm2, fast_blas=False)
    assert near(scoring.scores, bare(smollm2, scoring, model))


# -- the border ----------------------------------------------------------------------------------


def test_a_border_keeps_the_heads_tokens(smollm2: Path) -> None:
    """An item's tokens are those of the whole text, unless these change the head's."""
    language = ModelLanguage(smollm2)
    long = "word " * 300
    for head, item in (("I like", " cats"), ("The cat", "alog"), ("I like ", "cats"), (long, "x")):
        first, (behind,) = language.encode_pairs(head, [item], limit=8000)
        assert first == language.encode(head)
        whole = language.encode(head + item)
        same = whole[: len(first)] == first
        assert behind == (whole[len(first) :] if same else language.encode(item))
    assert language.encode_pairs("", ["x"], limit=8000)[0] == [1]  # its BOS


def test_a_text_begins_as_the_tokenizer_begins_one(tmp_path: Path) -> None:
    """With BOS, where the tokenizer itself puts it there."""
    make_tiny(tmp_path)
    assert ModelLanguage(tmp_path).encode_pairs("a", ["b"], limit=99)[0] != [1]
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    bos = tokenizer.id_to_token(1)
    tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    language = ModelLanguage(tmp_path)
    assert language.encode_pairs("a", ["b"], limit=99)[0] == [1, *language.encode("a")]
    assert language.encode_pairs("", ["b"], limit=99)[0] == [1]


# -- the endpoint --------------------------------------------------------------------------------


def body_of(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "heads": HEADS, "items": ITEMS, **more}


def test_the_endpoint_answers_logs_and_counts(tiny: Serving, tiny_model: Path) -> None:
    """Scores by head and item, the items' tokens, what was read; the metrics say how many."""
    scoring = scoring_of(ModelLanguage(tiny_model))
    wanted = bare(tiny_model, scoring)
    headers = {"X-Agentd-Agent": "ranker", "X-Agentd-Session": "7"}
    for cached in (None, sum(len(head) - 1 for head in scoring.heads)):
        status, answer = tiny.post("/v1/score", body_of(template=False), headers)
        assert status == 200
        assert (answer["object"], answer["model"]) == ("list", NAME)
        assert near(answer["scores"], wanted)
        assert answer["tokens"] == [len(item) for item in scoring.items[0]]
        assert answer["usage"]["prompt_tokens"] == scoring.tokens
        assert answer["usage"]["cached_tokens"] == cached or cached is None
    line = tiny.log.of("request.finished")[-1]
    assert (line["agent"], line["session_id"]) == ("other:ranker", 7)
    assert (line["finish_reason"], line["scores"]) == ("scored", len(HEADS) * len(ITEMS))
    assert (line["prompt_tokens"], line["completion_tokens"]) == (scoring.tokens, 0)
    report = tiny.runner.report()
    assert f"agentd_scores_total {2 * len(HEADS) * len(ITEMS)}" in report
    assert 'agentd_requests_total{outcome="scored"} 2' in report


def test_many_random_texts(tiny: Serving, tiny_model: Path) -> None:
    """As many pairs as may be, of all lengths."""
    pick = random.Random(5)
    language = ModelLanguage(tiny_model)
    heads = ["".join(pick.choices("ab the", k=pick.randrange(30))) for _ in range(4)]
    items = ["".join(pick.choices("ab the", k=pick.randrange(1, 40))) for _ in range(256)]
    status, answer = tiny.post("/v1/score", body_of(heads=heads, items=items))
    assert status == 200
    assert near(answer["scores"], bare(tiny_model, scoring_of(language, heads, items)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"heads": []}, "heads"),
    ({"heads": ["x"] * 33}, "heads"),
    ({"items": []}, "items"),
    ({"items": ["x"] * 257}, "items"),
    ({"items": ["a", ""]}, "items.1"),
    ({"items": [3]}, "items.0"),
    ({"heads": ["x"] * 32, "items": ["y"] * 33}, "items: heads times items are 1056, at most 1024"),
    ({"template": True}, "template"),
    ({"temperature": 0}, "temperature: unknown parameter"),
    ({"heads": ["a", "x" * 2050]}, "heads.1 with items.0 has"),
    ({"items": ["a", "x" * 2050]}, "heads.0 with items.1 has"),
    ({"heads": ["x" * 90_000]}, "far more tokens than the model's window"),
]


@pytest.mark.parametrize(("more", "says"), REFUSED)
def test_what_cannot_be_scored_is_refused_clearly(
    tiny: Serving, more: dict[str, Any], says: str
) -> None:
    """A 400 that names the place."""
    status, answer = tiny.post("/v1/score", body_of(**more))
    assert status == 400
    assert says in answer["error"]["message"]
    assert tiny.post("/v1/score", body_of(model="other"))[0] == 404


def test_an_item_without_tokens_is_refused(tmp_path: Path) -> None:
    """A tokenizer may know nothing of a text, and nothing has no probability."""
    make_tiny(tmp_path)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    data["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    path.write_text(json.dumps(data))
    with serving(lambda _language: ScriptedEngine(), lambda: ModelLanguage(tmp_path)) as server:
        status, answer = server.post("/v1/score", body_of(items=["a", "  "]))
    assert status == 400
    assert answer["error"]["param"] == "items.1"


def ask(server: Serving, agent: str, priority: str) -> http.client.HTTPConnection:
    """Ask for scores; return the connection, without its answer."""
    connection = server.connect()
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "X-Agentd-Agent": agent,
        "X-Agentd-Priority": priority,
    }
    connection.request("POST", "/v1/score", json.dumps(body_of()).encode(), headers)
    return connection


def test_a_score_waits_in_the_same_queue() -> None:
    """Classes and agents have their turns in it; a client that hangs up leaves it."""
    gate = Gate()
    engine = ScriptedEngine(before_step=gate)
    with serving(lambda _language: engine) as server:
        first = start(server, {"X-Agentd-Agent": "first"})
        wait_for(lambda: gate.steps)
        gone = ask(server, "gone", "event")
        wait_for(lambda: server.runner.waiting() == 1)
        gone.close()
        wait_for(lambda: not server.runner.waiting())
        asked = [ask(server, "late", "schedule"), ask(server, "soon", "person")]
        wait_for(lambda: server.runner.waiting() == 2)
        gate.open.set()
        first.join(20)
        answers = [json.loads(connection.getresponse().read()) for connection in asked]
        for connection in asked:
            connection.close()
    assert engine.order == ["other:first", "other:soon", "other:late"]
    assert answers[0]["scores"] == [[-float(len(item)) for item in ITEMS]] * len(HEADS)


def test_a_score_has_a_deadline(tiny: Serving) -> None:
    """In seconds from its slot on; then it is a 504 as any other call."""
    status, answer = tiny.post("/v1/score", body_of(), {"X-Agentd-Deadline": "0.000001"})
    assert (status, answer["error"]["code"]) == (504, "deadline")


def test_a_score_that_is_too_late_is_no_busy_server(tiny: Serving) -> None:
    """Whoever asks is told, and does not try the same again as behind a full queue."""
    address = Address(f"http://127.0.0.1:{tiny.port}/v1", NAME, TOKEN)
    endpoint = Endpoint(lambda: address, own=True)
    late = {"X-Agentd-Deadline": "0.000001"}
    with pytest.raises(CallDeadline, match="not finished"):
        endpoint.ask("/v1/score", {"heads": HEADS, "items": ITEMS}, late, 20.0)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_score_that_is_no_number_is_a_refusal(value: float) -> None:
    """JSON has neither; a client would try again what a server fails at."""
    done = Scoring([[1], [1]], [[[2], [3]]] * 2, [[-1.0, -2.0], [-1.0, value]])
    with pytest.raises(Refused, match=r"items\.1: the model says .* of it after heads\.1"):
        scores.answer(score_call(done), done, NAME)


def test_hanging_up_ends_a_score_within_a_step(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its pairs together: nothing more is read for nobody."""
    gate = Gate()

    def load(language: Any) -> MlxEngine:
        engine = MlxEngine(tiny_model, language, fast_blas=True)
        engine._prefill.piece_tokens = {True: 1, False: 1}
        step = engine.step

        def held() -> list[Advance]:
            gate([])
            return step()

        monkeypatch.setattr(engine, "step", held)
        return engine

    with serving(load, lambda: ModelLanguage(tiny_model)) as server:
        connection = ask(server, "gone", "event")
        wait_for(lambda: gate.steps)
        connection.close()
        wait_for(lambda: all(call.cancelled for call, _ in server.runner._active.values()))
        gate.open.set()
        (line,) = wait_for(lambda: server.log.of("request.finished"))
    assert line["finish_reason"] == "cancelled"
    assert line["scores"] == 0
