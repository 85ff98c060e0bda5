"""Thoughts are no answers: of servers that give both in one text, the decision alone is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import ModelError
from agentd.llm.thoughts import PAIRS, left_open, spoken
from agentd.testing import FakeModelServer, Reply
from tests.test_llm import DONE, FINDING, ask, client, review, serve

__all__ = ["client", "serve"]  # fixtures

HARMONY = "<|channel|>analysis<|message|>Should I say {DONE}?<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
# A thought with a decision in it, all but its end, and its end.
THOUGHTS = [
    *((f"{opens}Perhaps {DONE}? No.", closes) for opens, closes in PAIRS),
    (f"<Think>\n{DONE}", "</THINK>\n"),
    (f"Well. <think>{DONE}</thinking> {DONE} <think> {DONE}", "</think>"),
    (HARMONY.format(DONE=DONE), FINAL),
    (HARMONY.format(DONE=DONE), f"{FINAL[:-11]} <|constrain|>json<|message|>"),
    (f"analysisI could say {DONE}", "assistantfinal"),
    (f"<|channel|>commentary<|message|>{DONE}", FINAL),
]


@pytest.mark.parametrize(("thought", "end"), THOUGHTS)
def test_a_thought_is_left_out_and_a_part_of_one_is_nothing(thought: str, end: str) -> None:
    """Whatever form it has, no decision that it weighs is left."""
    assert spoken(f"{thought}{end}{FINDING}").removeprefix("Well. ").strip() == FINDING
    for cut in range(len(thought), len(thought) - len(DONE), -1):
        assert DONE not in spoken(thought[:cut])
    again = f"{thought}{end}hm {thought}{end}{FINDING}"
    assert DONE not in spoken(again) and spoken(again).endswith(FINDING)


@pytest.mark.parametrize("end", [closes for _opens, closes in PAIRS] + [FINAL])
def test_before_a_lone_closing_tag_all_was_thought(end: str) -> None:
    """Templates open the thought themselves, so that answers begin inside of it."""
    assert spoken(f"Perhaps {DONE}?\n{end}\n{FINDING}").strip() == FINDING


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"tool": "done", "summary": "the tag <think> opens, </think> closes"}),
        f"```json\n{FINDING}\n```",
        "An analysis of this: fine.",
        "",
    ],
)
def test_an_answer_without_thoughts_is_left_as_it_is(answer: str) -> None:
    """Also one whose texts speak of the tags."""
    assert spoken(answer) == answer


def test_an_open_thought_is_known_by_its_last_tag() -> None:
    """That is how a template's own is closed."""
    assert left_open("<think>a</think> <seed:think>\n") == "</seed:think>"
    assert left_open("<think>a</think>") == left_open("") == ""


def test_a_decision_is_never_taken_out_of_a_thought(
    client: Path, serve: Callable[..., FakeModelServer]
) -> None:
    """The decision after it counts, and is what is recorded; a cut thought is asked again."""
    thought = f"<think>{DONE}"
    decision = ask(review(client, serve([f"{thought}</think>{FINDING}"]), own=False))
    assert (decision.name, decision.raw) == ("Finding", FINDING)
    server = serve([Reply(thought, finish_reason="length"), FINDING])
    assert ask(review(client, server, own=False)).name == "Finding"
    assert "cut off" in server.requests[1].body["messages"][-1]["content"]


def test_a_cut_answer_that_nothing_masked_is_never_the_end(
    client: Path, serve: Callable[..., FakeModelServer]
) -> None:
    """BAML reads half an object as a whole one: a session must not end by that."""
    cut = Reply('{"tool":"done","summary":"we', finish_reason="length")
    server = serve([cut, FINDING])
    assert ask(review(client, server, own=False)).name == "Finding"
    with pytest.raises(ModelError, match="cut off"):
        ask(review(client, serve([cut, cut]), own=False))
    assert ask(review(client, serve([Reply(DONE, finish_reason="length")]))).name == "Done"


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<think>a</think>", FINAL])
def test_a_tag_in_the_texts_of_an_answer_is_text(tag: str) -> None:
    """Behind a thought as well as alone."""
    answer = json.dumps({"tool": "note", "text": f"the tag {tag} is told"})
    assert spoken(answer) == answer
    assert spoken(f"<think>Which one? {DONE}</think>{answer}") == answer
    assert spoken(f"{DONE}</think>{answer}") == answer
