"""The table [deliver] of agentd.toml: where results go, and when not."""

import os
import re
from datetime import time
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agentd.config.secret_names import WRITTEN, secret_name
from agentd.config.toml import Strict
from agentd.errors import ConfigError
from agentd.paths import ABSOLUTE_HINT, Paths, expanded

SPAN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")  # as ntfy's own servers have it
DAY_FILE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-[0-9]+)?\.md")
TELEGRAM = "https://api.telegram.org"


def _span(text: str) -> str:
    if not SPAN.fullmatch(text) or text[:5] == text[6:]:
        raise ValueError('write it as "22:00-07:00", by this machine\'s clock')
    return text


def _secret(text: str) -> str:
    if secret_name(text) is None:
        raise ValueError(f"no tokens in this file: {WRITTEN}")
    return text


def _folder(text: str) -> str:
    if not text.startswith(("/", "~")) or "\0" in text:
        raise ValueError(f"not an absolute path: {ABSOLUTE_HINT}")
    return text


def _address(url: str) -> str:
    """Check that a URL can be asked at all: scheme, host and port, and no password in it."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.port != 0 and "@" not in parts.netloc
        if right and parts.hostname and parts.hostname.encode("idna") and not parts.query:
            return url
    except ValueError:
        pass
    raise ValueError('write it as "https://host/path", without user, password or query')


def _topic(url: str) -> str:
    if not TOPIC.fullmatch(_address(url).rstrip("/").rpartition("/")[2]) or url.count("/") < 3:
        raise ValueError('end it with your topic, as in "https://ntfy.sh/my-topic"')
    return url


Secret = Annotated[str, AfterValidator(_secret)]


class DayFileConfig(Strict):
    """A Markdown file per day."""

    folder: Annotated[str, AfterValidator(_folder)] = Field(
        "~/agentd", description="Gets a file for each day, such as `2026-11-29.md`."
    )


class NtfyConfig(Strict):
    """A topic of ntfy.sh, or of a server of your own."""

    url: Annotated[str, AfterValidator(_topic)] = Field(
        description='Server and topic, as in "https://ntfy.sh/my-topic". Who knows it can read it.'
    )
    token: Secret | None = Field(None, description='Access token, as "secret:NAME".')


class NotificationConfig(Strict):
    """Notifications of macOS. There is nothing to set."""


class TelegramConfig(Strict):
    """A bot of Telegram."""

    token: Secret = Field(description='The bot\'s token, as "secret:NAME".')
    chat_ids: tuple[int, ...] = Field(
        min_length=1, max_length=20, description="Chats that it writes to; it hears no others."
    )
    url: Annotated[str, AfterValidator(_address)] = Field(
        TELEGRAM, description="A Bot API server of your own."
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.chat_ids)) < len(self.chat_ids):
            raise ValueError("a chat stands there twice")
        return self


class DeliverConfig(Strict):
    """Where results go, besides `agentd results`."""

    quiet: Annotated[str, AfterValidator(_span)] | None = Field(
        None, description='Hours in which nothing is sent, as "22:00-07:00"; then one message.'
    )
    most_per_day: int = Field(
        10, ge=1, le=1000, description="Messages a day by each way; the rest is one, next morning."
    )
    only: tuple[str, ...] = Field(
        (), description="Agents and event types whose results are sent; none listed: all."
    )
    file: DayFileConfig | None = Field(None, description="A Markdown file per day; it gets all.")
    ntfy: NtfyConfig | None = Field(None, description="A topic of ntfy.")
    notification: NotificationConfig | None = Field(None, description="Notifications of macOS.")
    telegram: TelegramConfig | None = Field(None, description="A bot of Telegram.")

    @property
    def ways(self) -> tuple[str, ...]:
        """Return the names of all ways, one for each chat of Telegram."""
        chats = self.telegram.chat_ids if self.telegram else ()
        named = [name for name in ("file", "ntfy", "notification") if getattr(self, name)]
        return (*named, *(f"telegram:{chat}" for chat in chats))

    @property
    def silence(self) -> tuple[time, time] | None:
        """Return when the quiet hours begin and end, by the machine's clock."""
        if self.quiet is None:
            return None
        begin, end = map(time.fromisoformat, self.quiet.split("-"))
        return begin, end


def day_folder(config: DeliverConfig, paths: Paths) -> Path | None:
    """Return the folder of the files, by way of links; None where none are written.

    Raises:
        ConfigError: it is not a person's: agentd's own files lie in there, or it lies among them.
    """
    if config.file is None:
        return None
    folder = Path(os.path.realpath(expanded(config.file.folder, where="deliver.file.folder")))
    for own in (paths.user, paths.data, paths.logs, paths.run):
        real = Path(os.path.realpath(own))
        if folder.is_relative_to(real) or real.is_relative_to(folder):
            raise ConfigError(
                f"agentd's own files are in {own}",
                where=f"deliver.file.folder: {folder}",
                hint="name another folder in agentd.toml",
            )
    return folder


def is_day_file(path: Path, folder: Path | None) -> bool:
    """Whether this is a file that results are written into, and so no news to an agent."""
    named = DAY_FILE.fullmatch(path.name) is not None
    return named and folder == Path(os.path.realpath(path.parent))
