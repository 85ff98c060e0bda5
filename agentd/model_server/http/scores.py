"""POST /v1/score: how likely items are behind heads, for ranking and for labels by phrase."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from starlette.requests import ClientDisconnect

from agentd.model_server.calls import Call, Refused, Scoring
from agentd.model_server.http.body import ForModel
from agentd.model_server.http.pieces import Pieces
from agentd.model_server.protocols import Language

HEADS_MAX, ITEMS_MAX, PAIRS_MAX = 32, 256, 1024

_Item = Annotated[str, StringConstraints(min_length=1)]


class ScoreRequest(ForModel):
    """The body of POST /v1/score."""

    heads: Annotated[list[str], Field(min_length=1, max_length=HEADS_MAX)]
    items: Annotated[list[_Item], Field(min_length=1, max_length=ITEMS_MAX)]
    template: Literal[False] | None = None  # the texts are read as they are


def scoring(body: ScoreRequest, language: Language) -> Scoring:
    """Tokenise; seconds for long texts, so not on the event loop.

    Raises:
        Refused: too many pairs, a pair that does not fit the window, an item without tokens.
    """
    pairs = len(body.heads) * len(body.items)
    if pairs > PAIRS_MAX:
        raise _wrong("items", f"heads times items are {pairs}, at most {PAIRS_MAX} may be")
    heads, items = [], []
    for number, text in enumerate(body.heads):
        head, behind = language.encode_pairs(text, body.items, limit=language.window)
        for place, item in enumerate(behind):
            if not item:
                raise _wrong(f"items.{place}", "the model's tokenizer has no tokens for it")
            if len(head) + len(item) > language.window:
                raise Refused(
                    f"heads.{number} with items.{place} has {len(head) + len(item)} tokens, the "
                    f"model's window is {language.window}",
                    code="context_length_exceeded",
                    param="items",
                )
        heads.append(head)
        items.append(behind)
    return Scoring(heads, items)


async def finished(pieces: Pieces) -> None:
    """Wait for the end of a call that scores. Raises Refused."""
    while not (piece := await pieces.get()).last:
        pass
    if piece.error is not None:
        raise piece.error
    if piece.cancelled:
        raise ClientDisconnect


def answer(call: Call, done: Scoring, model: str) -> dict[str, Any]:
    """Return the answer's body.

    Raises:
        Refused: a score is no number that JSON has.
    """
    for number, row in enumerate(done.scores):
        for place, score in enumerate(row):
            if not math.isfinite(score):
                raise _wrong(f"items.{place}", f"the model says {score} of it after heads.{number}")
    return {
        "object": "list",
        "model": model,
        "scores": done.scores,
        "tokens": [len(item) for item in done.items[0]],
        "usage": {"prompt_tokens": call.prompt_tokens, "cached_tokens": call.cached_tokens},
    }


def _wrong(place: str, why: str) -> Refused:
    return Refused(f"{place}: {why}", param=place)
