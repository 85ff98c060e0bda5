"""What is wrong with a value is said in a person's words: which key, what to write."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core._pydantic_core import list_all_errors

from agentd.config.agent import load_agent
from agentd.config.daemon import load_daemon
from agentd.config.toml import config_error
from agentd.config.wording import key_of, said
from agentd.errors import ConfigError

GOOD = 'agent = "task"\ndone = "Something is done."\n'
# Words of Pydantic's, not of people who write TOML.
LINE = re.compile("line [0-9]+: ")  # where a key stands: test_enable has which
JARGON = re.compile(
    r"(?i)\b(string|input|field|dictionary|tuple|instance|boolean|integer|parse|interpret|"
    r"valid|extra|permitted|should|literal|NoneType|items?|Value error)\b"
)


def agent_error(tmp_path: Path, text: str) -> ConfigError:
    path = tmp_path / "reader.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_agent(path)
    assert caught.value.where == str(path) and caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('agent = "task"\ndone = "short"', "done: must have at least 8 characters"),
        ('agent = "task"', "done: is missing"),
        ('agent = 3\ndone = "Something is done."', "agent: must be text, in quotes"),
        (GOOD + 'subscribe = "a.b"', "subscribe: must be a list, in brackets"),
        (GOOD + "subscribe = [1]", "subscribe.0: must be text, in quotes"),
        (GOOD + 'enabled = "yes, please"', "enabled: must be true or false, without quotes"),
        (GOOD + "priority = 1.5", "priority: must be a whole number"),
        (GOOD + "priority = 10", "priority: must be at most 9"),
        (GOOD + 'priority = "high"', "priority: must be a whole number, without quotes"),
        (GOOD + 'start = "later"', 'start: must be "now" or "beginning"'),
        (GOOD + 'missed = "maybe"', 'missed: write "once", "skip", or how late'),
        (GOOD + "missed = 30", 'missed: write "once", "skip", or how late'),
        (GOOD + 'schedule = "1h"', "schedule: give { every"),
        (GOOD + 'schedule = { every = "soon" }', 'schedule.every: write a duration as "30s"'),
        (GOOD + "schedule = { cron = 9 }", "schedule.cron: must be text, in quotes"),
        (GOOD + 'limits = "none"', "limits: must be a table"),
        (GOOD + "[limits]\nturns = 0", "limits.turns: must be at least 1"),
        (GOOD + "[limits]\ncontext_share = 0", "limits.context_share: must be more than 0"),
        (GOOD + "[limits]\ncontext_share = 2", "limits.context_share: must be at most 1"),
        (GOOD + "[limits]\ncontext_share = nan", "limits.context_share: must be"),
        (GOOD + "[limits]\ndeadline = 30", "limits.deadline: write a duration as"),
        (GOOD + '[permissions]\nread = "~/notes"', "permissions.read: must be a list"),
        (GOOD + f'description = "{"x" * 401}"', "description: must have at most 400 characters"),
        (GOOD + "params = []", "params: must be a table"),
        ('agent = "x/../y"\ndone = "Something is done."', "agent: 'x/../y' cannot name a module"),
    ],
)
def test_an_agents_file_is_told_what_to_write(tmp_path: Path, text: str, what: str) -> None:
    error = agent_error(tmp_path, text)
    assert LINE.sub("", error.what, count=1).startswith(what), error.what
    assert not JARGON.search(error.what), error.what


def test_the_hint_says_what_the_key_is_for(tmp_path: Path) -> None:
    """In the words of the table in the README."""
    error = agent_error(tmp_path, 'agent = "task"\ndone = "x"')
    assert error.hint.startswith("done: What done looks like, written before it starts.")
    error = agent_error(tmp_path, GOOD + "[permissions]\nread = [1]")
    assert "Folders and files that may be read." in error.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GOOD + "subcribe = []", 'subcribe: unknown key; did you mean "subscribe"? there are'),
        (GOOD + "Enabled = true", 'Enabled: unknown key; did you mean "enabled"?'),
        (GOOD + "[limits]\nturn = 1", 'limits.turn: unknown key; did you mean "turns"? there are'),
        (GOOD + 'schedule = { every = "1h", jitter = 1 }', "schedule.jitter: unknown key; there"),
        (GOOD + "colour = 1", "colour: unknown key; there are agent, done, "),
        (GOOD + "read = []", "read: unknown key; it belongs into [permissions]"),
        (GOOD + "turns = 1", "turns: unknown key; it belongs into [limits]"),
        (
            GOOD + "[permissions]\nread = []\nsubscribe = []",
            "permissions.subscribe: unknown key; it belongs to the top of the file",
        ),
    ],
)
def test_a_misspelt_or_misplaced_key_is_told_the_right_one(
    tmp_path: Path, text: str, what: str
) -> None:
    """In TOML what follows a [table] belongs to it, which people forget."""
    assert LINE.sub("", agent_error(tmp_path, text).what, count=1).startswith(what)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[modle]", 'modle: unknown key; did you mean "model"?'),
        ('[model]\nnmae = "x"', 'model.nmae: unknown key; did you mean "name"?'),
        ('name = "x"', "name: unknown key; it belongs into [model]"),
        ('[model]\nport = "x"', "model.port: must be a whole number"),
        ("[model]\nport = 70000", "model.port: must be at most 65535"),
        ("[model]\napi_key_file = 3", "model.api_key_file: must be a path, in quotes"),
        ("[logs]\nlevel = 'loud'", 'logs.level: must be "debug", "info", "warning" or "error"'),
        ("[bus]\nfullfsync = 'very'", "bus.fullfsync: must be true or false"),
        ("[model]\nunload_after = 3", "model.unload_after: write a duration as"),
        ("model = 3", "model: must be a table"),
    ],
)
def test_the_daemons_file_is_told_what_to_write(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "agentd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_daemon(path)
    assert LINE.sub("", caught.value.what, count=1).startswith(what), caught.value.what
    assert not JARGON.search(caught.value.what.partition(" there are ")[0])


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field("", description="Where it lies.")


class Params(BaseModel):
    """As the module of an agent may declare its own."""

    model_config = ConfigDict(extra="forbid")

    size: int | str = 1
    kinds: list[Literal["x", "y"]] = Field(default_factory=list, max_length=1)
    inner: Inner | None = None
    many: dict[str, Inner] = Field(default_factory=dict)
    code: str = Field("abc", pattern="^[a-z]+$")


@pytest.mark.parametrize(
    ("params", "what", "hint"),
    [
        ({"size": []}, "params.size: must be a whole number, without quotes or must be text", ""),
        ({"kinds": ["z"]}, 'params.kinds.0: must be "x" or "y"', ""),
        ({"kinds": ["x", "y"]}, "params.kinds: must have at most 1 entry", ""),
        ({"inner": {"path": 3}}, "params.inner.path: must be text", "Where it lies."),
        ({"inner": {"pth": ""}}, 'params.inner.pth: unknown key; did you mean "path"?', "remove"),
        ({"many": {"a": {"path": 3}}}, "params.many.a.path: must be text", ""),
        ({"code": "7"}, "params.code: must have the form ^[a-z]+$", ""),
    ],
)
def test_an_agents_own_parameters_are_told_likewise(
    params: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Params.model_validate(params)
    error = config_error(caught.value, "reader.toml", "params.", model=Params)
    assert error.what.startswith(what) and hint in error.hint


def test_a_key_that_is_called_as_a_type_keeps_its_name() -> None:
    class Odd(BaseModel):
        path: int
        str: int

    with pytest.raises(ValidationError) as caught:
        Odd.model_validate({})
    assert [key_of(item) for item in caught.value.errors()] == ["path", "str"]


def test_all_words_fit_what_pydantic_gives() -> None:
    """Each error of this Pydantic's has words, or its own message loses its subject."""
    for known in list_all_errors():
        item: Any = {
            "type": known["type"],
            "msg": known["example_message_python"],
            "ctx": known.get("example_context"),
            "loc": ("key",),
        }
        text = said(item)
        assert text and "{" not in text and not text.startswith("Input"), known["type"]
