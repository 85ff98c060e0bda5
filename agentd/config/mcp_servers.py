"""The tables [mcp.NAME] of agentd.toml: MCP servers whose tools agents may name."""

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agentd.config.agent import AGENT_NAME, ServerPermissions
from agentd.config.toml import Strict

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
STRING_MAX = 200  # characters, as of all other decisions' texts


def _server_name(name: str) -> str:
    if not AGENT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a server: use lower-case letters, digits and _")
    return name


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a variable")
    return name


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


Word = Annotated[str, AfterValidator(_no_nul)]


class McpConfig(Strict):
    """One MCP server: a program that the daemon starts, or a URL."""

    command: Word | None = Field(
        None, min_length=1, description="The server's program, by name or path."
    )
    args: tuple[Word, ...] = Field((), description="Its arguments.")
    env: dict[Annotated[str, AfterValidator(_variable)], Word] = Field(
        default_factory=dict, description="Its environment, besides PATH, HOME and the language."
    )
    url: str | None = Field(
        None, description="Address of a server that runs already (streamable HTTP)."
    )
    string_max: int = Field(
        STRING_MAX,
        ge=1,
        le=16_000,
        description="Characters of a text argument whose length the server leaves open.",
    )
    permissions: ServerPermissions = Field(default_factory=ServerPermissions)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("write either `command` or `url`")
        own = [key for key in ("args", "env", "permissions") if key in self.model_fields_set]
        if self.url is not None and own:
            raise ValueError(f"`{own[0]}` is of a program, and goes without `url`")
        if self.url is not None and not _is_address(self.url):
            raise ValueError('write `url` as "https://example.org/mcp", without user or password')
        return self


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname and parts.hostname.encode("idna"))
            and parts.port != 0
            and "@" not in parts.netloc
        )
    except ValueError:
        return False


ServerName = Annotated[str, AfterValidator(_server_name)]


class McpServerConfig(Strict):
    """What other assistants may do through `agentd mcp`; reading is always allowed."""

    ask: bool = Field(False, description="true: they may also ask agents, as a person does.")
