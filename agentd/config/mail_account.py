"""[accounts.NAME] of an agent's file: mail that its tools may read."""

from pydantic import Field, field_validator

from agentd.config.mail_url import MailUrl
from agentd.config.secret_names import WRITTEN, secret_name
from agentd.config.toml import Strict


class Account(Strict):
    """A mailbox on an IMAP server, which `ReadMail` reads and leaves as it is."""

    url: str = Field(
        description='"imaps://USER@HOST/FOLDER"; without a folder the INBOX. [permissions] net '
        "must list the host."
    )
    password: str = Field(description='"secret:NAME": it goes to the fetcher and nowhere else.')

    @field_validator("url")
    @classmethod
    def _is_mailbox(cls, value: str) -> str:
        MailUrl.of(value)
        return value

    @field_validator("password")
    @classmethod
    def _is_secret(cls, value: str) -> str:
        if secret_name(value) is None:
            raise ValueError(f"a password does not stand in a file; {WRITTEN}")
        return value
