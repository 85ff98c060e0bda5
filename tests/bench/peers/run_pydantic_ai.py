"""The same task as an agent of pydantic-ai."""

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from .rounds import TASK, TEXT, URL, take_turns

provider = OpenAIProvider(base_url=URL, api_key="none")
agent = Agent(OpenAIChatModel("fake", provider=provider))


@agent.tool_plain  # type: ignore[untyped-decorator]
def read_file(path: str, start: int) -> str:
    """Read a file."""
    return TEXT


take_turns(lambda: agent.run_sync(TASK))
