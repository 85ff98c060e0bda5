"""Errors say what was probably meant."""

import pytest

from agentd.config.suggest import did_you_mean

KEYS = ("done", "subscribe", "limits", "permissions", "Done")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("subcribe", "subscribe"),
        ("SUBSCRIBE", "subscribe"),
        ("permision", "permissions"),
        ("limit", "limits"),
    ],
)
def test_a_misspelt_word_names_the_closest_choice(word: str, meant: str) -> None:
    assert did_you_mean(word, KEYS) == f'; did you mean "{meant}"?'


@pytest.mark.parametrize("word", ["", "colour", "subscribe", "\0", "x" * 10_000])
def test_a_word_that_is_right_or_like_no_other_names_none(word: str) -> None:
    assert did_you_mean(word, KEYS) == ""
    assert did_you_mean(word, ()) == ""
