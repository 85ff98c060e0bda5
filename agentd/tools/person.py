"""Asking a person: the session parks, and goes on with the answer as the result."""

from pydantic import Field

from agentd.agent import Result
from agentd.tools.base import Args, Tool, ToolCall


class AskPerson(Args):
    """Ask the person who runs this agent."""

    question: str = Field(min_length=1, max_length=200)


def ask_person(args: AskPerson, call: ToolCall) -> Result:
    """Park the session with the question."""
    return Result({"question": args.question}, ask=args.question)


TOOLS = (
    Tool(
        "AskPerson",
        AskPerson,
        None,
        idempotent=True,
        run=ask_person,
        effect="none",
        untrusted=False,
    ),
)
