"""Log-probabilities of an answer's tokens, in OpenAI's shape."""

from collections.abc import Callable, Sequence
from typing import Any

from agentd.model_server.calls import TokenLogprob

Decode = Callable[[Sequence[int]], bytes]


def shown(tokens: Sequence[TokenLogprob], decode: Decode) -> dict[str, Any]:
    """Return what a choice says of its tokens; `decode` gives their bytes."""
    content = [
        {
            **_one(told.token, told.logprob, decode),
            "top_logprobs": [_one(token, logprob, decode) for token, logprob in told.likeliest],
        }
        for told in tokens
    ]
    return {"content": content, "refusal": None}


def _one(token: int, logprob: float, decode: Decode) -> dict[str, Any]:
    data = decode([token])
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
