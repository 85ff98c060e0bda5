"""Answers of /v1/completions, in OpenAI's shape of a text that goes on."""

from collections.abc import Iterator, Mapping
from typing import Any

from agentd.model_server.http.answers import AnswerWriter
from agentd.model_server.tool_calls import AnswerPart


class TextWriter(AnswerWriter):
    """One call's answer on its way to the client, where it goes on from a text."""

    _KIND, _CHUNK, _ID = "text_completion", "text_completion", "cmpl"
    _LAST: Mapping[str, Any] = {"text": ""}

    def _whole(self, text: str, arguments: str) -> dict[str, Any]:
        return {"text": text}

    def _first(self) -> Iterator[dict[str, Any]]:
        yield from ()

    def _deltas(self, part: AnswerPart) -> Iterator[dict[str, Any]]:
        if part.content:
            yield {"text": part.content}
