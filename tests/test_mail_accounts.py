"""[accounts] and `apps` of an agent's file: what `agentd check` says before anything runs."""

import sys
from pathlib import Path
from typing import Any

import pytest

from agentd.commands.advice import agent_problem, cautions, lacking, spare
from agentd.config.agent import AgentConfig, load_agent
from agentd.config.secret_values import secret_of
from agentd.errors import ConfigError
from agentd.paths import Paths
from tests.test_check import Check, check, paths

__all__ = ["check", "paths"]
FILE = Path("mail.toml")
HEAD = 'agent = "task"\ndone = "The mail is noted."\nschedule = { every = "1h" }\n'
PARAMS = '[params]\ninstructions = "Note it."\ntools = ["ReadMail"]\n'
ACCOUNT = '[accounts.ada]\nurl = "imaps://ada@imap.example.org"\npassword = "secret:mail"\n'


def config(**more: Any) -> AgentConfig:
    account = {"url": "imaps://ada@imap.example.org", "password": "secret:mail"}
    given = {"agent": "task", "done": "It is noted.", "accounts": {"ada": account}, **more}
    return AgentConfig.model_validate(given)


@pytest.mark.parametrize(
    ("listed", "url", "hint"),
    [
        ([], "imaps://ada@imap.example.org", 'add "imap.example.org"'),
        (["example.org"], "imaps://ada@imap.example.org", 'add "imap.example.org"'),
        (["imap.example.org"], "imaps://ada@imap.example.org:1993", 'add "imap.example.org:1993"'),
        (["imap.example.org"], "imaps://ada@IMAP.example.org/Sent", None),
        (["imap.example.org:993"], "imaps://ada@imap.example.org", None),
        (["[::1]:143"], "imap://ada@[::1]", None),
    ],
)
def test_an_accounts_host_has_to_be_listed(listed: list[str], url: str, hint: str | None) -> None:
    """With the words that would list it."""
    account = {"ada": {"url": url, "password": "secret:mail"}}
    found = agent_problem(config(accounts=account, permissions={"net": listed}), FILE)
    assert (found and found.hint) == hint
    assert found is None or found.where == "mail.toml: permissions.net"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"ReadMail": "adam"}, "'adam' is no account; did you mean \"ada\"?"),
        ({"ReadMail": {"source": "work", "most": 5}}, "'work' is no account"),
        ({"ReadMail": "ada"}, None),
        ({"ReadMail": "~/mail"}, None),
        ({"ReadMail": "{path}"}, None),
        ({"ReadFile": "adam"}, None),
        ("ReadMail", None),
    ],
)
def test_a_first_step_names_an_account_that_is_there(step: Any, why: str | None) -> None:
    """Or a path; else every session would fail alike."""
    made = config(params={"first": [step]}, permissions={"net": ["imap.example.org"]})
    found = agent_problem(made, FILE)
    assert (found and found.what) == why


def test_a_secret_that_is_missing_is_told(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's environment may have it, so that is advice; and what needs a Mac as well."""
    made = config(params={"key": "secret:other"}, permissions={"apps": ["shortcut:Water plants"]})
    monkeypatch.setenv("AGENTD_SECRET_mail", "x")
    monkeypatch.setattr(sys, "platform", "linux")
    told = list(lacking(made, paths))
    assert told[0] == "permissions.apps: this needs a Mac; its tools fail here"
    assert told[1].startswith("secret:other: there is no secret other") and len(told) == 2
    (caution,) = cautions("mail", made.permissions, paths)
    assert caution.startswith("mail may run the shortcut:Water plants: it does what you made it do")


def test_an_agent_gets_the_secrets_of_its_accounts(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of its parameters, and no others."""
    monkeypatch.setenv("AGENTD_SECRET_mail", "hunter2 of this test")
    named = config(params={"key": "secret:other"}).secrets
    assert named == {"mail", "other"}
    assert secret_of(named, "mail", paths) == "hunter2 of this test"
    with pytest.raises(ConfigError, match="no parameter names the secret 'third'"):
        secret_of(named, "third", paths)


def test_either_permission_will_do() -> None:
    """ReadMail needs a mailbox here or a host, and makes neither of them useless."""
    for listed in ({"net": ["imap.example.org"]}, {"read": ["/mail"]}):
        made = config(params={"tools": ["ReadMail"]}, permissions=listed)
        assert not list(spare(made))
    made = config(params={"tools": ["ReadFile"]}, permissions={"net": ["a"], "read": ["/b"]})
    (told,) = spare(made)
    assert "HttpGet" in told and "ReadMail" in told


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('[accounts."a b"]\nurl = "imaps://a@b"\npassword = "secret:x"', "names no account"),
        ('[accounts.ada]\nurl = "imaps://a@b"', "accounts.ada.password"),
        ('[accounts.ada]\nurl = "imaps://a:b@c"\npassword = "secret:x"', "stands in no URL"),
        ('[accounts.ada]\nurl = "imaps://a@b"\npassword = "hunter2"', "does not stand in a file"),
    ],
)
def test_a_wrong_account_is_a_wrong_file(tmp_path: Path, more: str, why: str) -> None:
    """With the key; a password that was written there is not repeated."""
    file = tmp_path / "mail.toml"
    file.write_text(HEAD + PARAMS + more)
    with pytest.raises(ConfigError) as raised:
        load_agent(file)
    assert why in str(raised.value) and "hunter2" not in str(raised.value)


def test_check_by_the_command(paths: Paths, check: Check) -> None:
    """As a person types it: an agent that is right, one that lists nothing, one that asks."""
    paths.agents_d.mkdir(exist_ok=True)
    right = '[permissions]\nnet = ["imap.example.org"]\n'
    (paths.agents_d / "right.toml").write_text(HEAD + PARAMS + right + ACCOUNT)
    (paths.agents_d / "lists_nothing.toml").write_text(HEAD + PARAMS + ACCOUNT)
    tools = PARAMS.replace('"ReadMail"', '"ReadMail", "AddNote", "RunShortcut"')
    apps = right + 'apps = ["notes", "shortcut:Water plants"]\n'
    (paths.agents_d / "asks.toml").write_text(HEAD + tools + apps + ACCOUNT)
    found = check()
    (wrong,) = found["problems"]
    assert wrong["name"] == "lists_nothing"
    assert "uses ReadMail, which needs [permissions] net = [...] or read = [...]" in wrong["what"]
    assert found["asks"]["asks"].keys() == {"AddNote", "RunShortcut"}
    assert any("no secret mail" in warning["what"] for warning in found["warnings"])
