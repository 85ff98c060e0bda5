"""Labels by phrase: what a text's labels score, forth and back.

Forth, how likely is the text after the label's phrase? Back, how likely is the label after the
text? Both ask how well the two go together, and err in other ways: with each label's mean taken
off, 72 % of 210 texts of ten kinds got their label forth, 80 % back, 81 % by the sum.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from agentd.agent import Kit, Label, Score
from agentd.llm.calibration import likeliest, weighed
from agentd.llm.label_bias import RECENT, offsets

TOGETHER = 16  # texts of one call: each is a head of its own, and there may be 32
BACK = 'Text: "{text}"\nLabel:'
# Of no particular kind: what labels score behind these, they score behind any text.
SENTENCES = (
    "The train was late again, so we walked the rest of the way.",
    "Please send me the second half by tomorrow evening.",
    "A small house at the end of a long road",
    "What time does it start, and who else is coming?",
    "Version 2 is ready and will be sent out next week.",
    "She put the letter back into the drawer without reading it.",
    "We need three more chairs, a lamp and some paper.",
    "It has been raining since Tuesday.",
    "I do not know how this works.",
    "The old one was better, but nobody asked us.",
    "Thank you, that is all for today.",
    "Twelve people in two boats",
    "Can somebody open the window?",
    "The new rules apply to all from the first of May.",
    "Something is wrong with the left one.",
    "Red, green and blue, in that order",
)


def labelled(
    kit: Kit, fact: str, phrases: Mapping[str, str], texts: Sequence[str], instructions: str = ""
) -> tuple[list[Label], dict[str, Any]]:
    """Return each text's label, and what to remember for those to come under the name `fact`.

    Taken off is what labels have behind any text, and what they had for the last ones, unless
    [labels] calibrate is false. See `Kit.score` for errors.
    """
    rules, given, model = kit.labels, list[dict[str, float]](), ""
    for at in range(0, len(texts), TOGETHER):
        some = texts[at : at + TOGETHER]
        rows, model = scored(kit.score, phrases, some, instructions)
        given += rows
    of = {"model": model, "phrases": dict(phrases), "instructions": instructions}
    known = kit.memory.get(fact, {})
    known = known if known.get("of") == of else {}
    begun, recent = known.get("begun"), known.get("recent", [])
    if given and begun is None and rules.calibrate is not False:
        begun = scored_by_any_text(kit.score, phrases, instructions)
    labels = []
    for row in given:
        taken_off = offsets(begun, recent) if begun and rules.calibrate is not False else {}
        about = weighed(row, taken_off, unsure_below=rules.unsure_below)
        labels.append(Label.recorded(likeliest(row, taken_off), about))
        recent = [row, *recent][:RECENT]
    return labels, {fact: {"of": of, "begun": begun, "recent": recent}} if given else {}


def scored(
    score: Score, phrases: Mapping[str, str], texts: Sequence[str], instructions: str
) -> tuple[list[dict[str, float]], str]:
    """Return what each text's labels score, in nats, and the model. See `Kit.score` for errors."""
    forth = score(list(phrases.values()), texts)
    back = _back(score, list(phrases), texts, instructions)
    columns = zip(*forth.values, strict=True)
    rows = [
        {label: one + two for label, one, two in zip(phrases, column, row.values(), strict=True)}
        for column, row in zip(columns, back, strict=True)
    ]
    return rows, forth.model


def scored_by_any_text(
    score: Score, phrases: Mapping[str, str], instructions: str
) -> dict[str, float]:
    """Return what labels score back for texts of no particular kind: see `label_bias.offsets`.

    Forth there is nothing: no text says what a phrase gives all others.
    """
    back = _back(score, list(phrases), SENTENCES, instructions)
    return {label: fmean(row[label] for row in back) for label in phrases}


def _back(
    score: Score, labels: Sequence[str], texts: Sequence[str], instructions: str
) -> list[dict[str, float]]:
    before = f"{instructions}\n\n" if instructions else ""
    heads = [before + BACK.format(text=text) for text in texts]
    scores = score(heads, [f" {label}" for label in labels])
    return [dict(zip(labels, row, strict=True)) for row in scores.values]
