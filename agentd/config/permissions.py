"""What tools and programs may touch: the table [permissions]."""

import re

from pydantic import Field, field_validator, model_validator

from agentd.config.toml import Strict

APPS = ("calendar", "notes", "reminders")
SHORTCUT = re.compile(r"shortcut:[^-\x00-\x1f][^\x00-\x1f]{0,99}")  # a `-` would begin an option


class ServerPermissions(Strict):
    """What the program of an MCP server may touch. Nothing is allowed unless listed."""

    read: tuple[str, ...] = Field((), description="Folders and files that may be read.")
    write: tuple[str, ...] = Field((), description="Folders and files that may be written.")
    net: tuple[str, ...] = Field((), description='Hosts to fetch from, "host" or "host:port".')
    run: tuple[str, ...] = Field(
        (), description="Programs that may be run, by name or path. They touch what is listed here."
    )


class Permissions(ServerPermissions):
    """What an agent's tools may touch. Nothing is allowed unless listed."""

    apps: tuple[str, ...] = Field(
        (),
        description='Of a Mac: "calendar", "notes", "reminders", "shortcut:NAME". '
        "Not together with `run`.",
    )

    @field_validator("apps")
    @classmethod
    def _apps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if item not in APPS and not SHORTCUT.fullmatch(item):
                known = ", ".join(f'"{app}"' for app in APPS)
                raise ValueError(f'{item!r} is no app; write {known} or "shortcut:NAME"')
        return value

    @model_validator(mode="after")
    def _apart(self) -> "Permissions":
        # On a Mac a program has the sandbox of who starts it, so also the way to these apps.
        if self.apps and self.run:
            raise ValueError(
                "`apps` and `run` do not go together: a program could tell these apps anything; "
                "make two agents of it"
            )
        return self
