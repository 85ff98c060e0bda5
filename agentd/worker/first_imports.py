"""What a worker imports before all else, without what an idle one never uses of it.

There is a worker per agent, so 4 MB saved in one is worth having (`python -m tests.bench`).
"""

from agentd.process.deferred import deferred

with deferred("tempfile"):  # platformdirs brings it, with shutil and the compression libraries
    import platformdirs  # noqa: F401
with deferred("asyncio", "rich"):  # structlog brings what it never uses here: 2 and 6 MB
    import structlog  # noqa: F401
with deferred("importlib.metadata"):  # at its first model Pydantic looks for plugins: 1.4 MB
    import pydantic

    class _First(pydantic.BaseModel):
        pass
