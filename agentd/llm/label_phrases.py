"""Labels by phrase: what a text's labels score, forth and back.

Forth, how likely is the text after the label's phrase? Back, how likely is the label after the
text? Both ask how well the two go together, and err in other ways: with each label's mean taken
off, 72 % of 210 texts of ten kinds got their label forth, 80 % back, 81 % by the sum.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from agentd.agent import Score

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
