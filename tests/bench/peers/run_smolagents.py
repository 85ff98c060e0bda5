"""The same task as an agent of smolagents that calls tools."""

from smolagents import LogLevel, OpenAIModel, ToolCallingAgent, tool

from .rounds import TASK, TEXT, URL, take_turns


@tool  # type: ignore[untyped-decorator]
def read_file(path: str, start: int) -> str:
    """Read a file.

    Args:
        path: Which one.
        start: The first line.
    """
    return TEXT


model = OpenAIModel(model_id="fake", api_base=URL, api_key="none")
agent = ToolCallingAgent(tools=[read_file], model=model, verbosity_level=LogLevel.OFF)
take_turns(lambda: agent.run(TASK))
