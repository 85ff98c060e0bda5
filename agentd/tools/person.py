"""Asking a person: the session parks, and goes on with the answer as the result."""

from agentd.events import Result
from agentd.tools.base import ToolCall


def ask_person(call: ToolCall, question: str) -> Result:
    """Park the session with the question."""
    return Result({"question": question}, ask=question)
