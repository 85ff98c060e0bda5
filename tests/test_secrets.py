"""Secrets: found in three places, given to the agent that names them, and seen nowhere else."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from agentd import secret_rules
from agentd.bus import Bus
from agentd.config import keychain
from agentd.config.agent import AgentConfig
from agentd.config.daemon import ModelConfig, load_daemon
from agentd.config.secret_values import secret_value, with_secrets
from agentd.errors import ConfigError
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.supervisor.client import query
from agentd.testing import wait_for
from agentd.tools.closed import Closed
from tests.commandline import DEADLINE_S, agentd
from tests.test_head import FILES, MODULE, TOML, Home, a_home

VALUE = "correct-horse/battery+staple 42"
KEY = "its-key-of-many-words"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_rules, "_known", [])


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = discover({"AGENTD_HOME": str(tmp_path)})
    found.create()
    found.secrets.mkdir()
    return found


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


# --- where they are


def test_they_are_looked_for_in_order(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Keychain, a private file, the environment; where there is none, all three are named."""
    asked = tmp_path / "asked"
    program = tmp_path / "security"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n[ "$5" = kept ] || exit 44\necho "a b"\n')
    program.chmod(0o755)
    environ = {"AGENTD_SECRET_both": "of the environment", "AGENTD_SECRET_env": "short"}
    write(paths.secrets / "both", "of the file\n")
    write(paths.secrets / "kept", "never looked at")
    assert secret_value("kept", paths, environ) == "never looked at", "not on macOS"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(keychain, "SECURITY", str(program))
    assert secret_value("kept", paths, environ) == "a b"
    assert asked.read_text() == "find-generic-password -s agentd -a kept -w\n"
    assert secret_value("both", paths, environ) == "of the file"
    assert secret_value("env", paths, environ) == "short"
    with pytest.raises(ConfigError) as error:
        secret_value("none", paths, environ)
    for place in ("account none", str(paths.secrets / "none"), "AGENTD_SECRET_none"):
        assert place in error.value.what
    assert "security add-generic-password -s agentd -a none -w" in error.value.hint


def test_a_keychain_that_is_locked_is_told_of(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one looks for the fault in the name."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(keychain, "SECURITY", "/bin/false")
    with pytest.raises(ConfigError, match=r"`security` ended with 1"):
        secret_value("none", paths, {})


def test_a_file_that_others_read_is_refused(paths: Paths) -> None:
    """With the command to type, and without what it holds."""
    write(paths.secrets / "open", VALUE, 0o640)
    with pytest.raises(ConfigError, match="0640") as error:
        secret_value("open", paths, {"AGENTD_SECRET_open": "x"})
    assert error.value.hint == f"`chmod 600 {paths.secrets / 'open'}`"
    assert VALUE not in str(error.value)


def test_a_programs_environment_gets_values(paths: Paths) -> None:
    """As a server of tools needs it; what is no secret stays as it is."""
    write(paths.secrets / "one", VALUE)
    texts = {"TOKEN": "secret:one", "HOME": "/home/x"}
    assert with_secrets(texts, paths) == {"TOKEN": VALUE, "HOME": "/home/x"}


@pytest.mark.parametrize("text", ["secret:", "secret:a b", "secret:../x", "secret:1"])
def test_what_names_none_is_an_error(text: str) -> None:
    """A misspelt one would else be the value."""
    for model, table in (
        (AgentConfig, {"agent": "task", "done": "It is done.", "params": {"a": [{"b": text}]}}),
        (ModelConfig, {"url": "http://127.0.0.1:1/v1", "api_key": text}),
    ):
        with pytest.raises(ValueError, match="secret:NAME"):
            model.model_validate(table)


def test_a_key_does_not_stand_in_agentd_toml(paths: Paths) -> None:
    """People show that file to others."""
    for text, what in (
        (f'api_key = "{KEY}"', "no keys in this file"),
        ('api_key = "secret:a"\napi_key_file = "/x"', "not both"),
    ):
        paths.daemon_file.write_text(f'[model]\nurl = "http://127.0.0.1:1/v1"\n{text}\n')
        with pytest.raises(ConfigError, match=what) as error:
            load_daemon(paths.daemon_file)
        assert KEY not in str(error.value)


def test_no_tool_reads_them(paths: Paths) -> None:
    """An agent may be given the folder of the configuration, to read what is set."""
    closed = Closed.of(paths, "one", None).marks(writing=False)
    assert closed.reason(str(paths.config / "agentd.toml"), 0) is None
    assert closed.reason(str(paths.secrets / "one"), 0) is not None


# --- what is hidden


def test_a_secret_that_becomes_known_while_a_line_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What another thread found without it is not what later lines show."""
    before = secret_rules.hide

    def slow(text: str) -> str:
        found = before(text)
        monkeypatch.setattr(secret_rules, "hide", before)
        secret_rules.remember("Tr0ub4dor-and-3")
        return found

    monkeypatch.setattr(secret_rules, "hide", slow)
    secret_rules.hidden_word("said Tr0ub4dor-and-3")
    assert secret_rules.hidden_word("said Tr0ub4dor-and-3") == "said [redacted]"


def test_a_known_secret_is_hidden_as_a_text() -> None:
    """No rule knows what it looks like; one of several lines is also hidden by the line."""
    assert secret_rules.hidden_word(f"key {VALUE}") == f"key {VALUE}"
    secret_rules.remember(VALUE)
    assert VALUE not in secret_rules.hidden_word(f"key {VALUE}"), "what was seen before, too"
    secret_rules.remember("first line of it\nx\nsecond line of it")
    hide = secret_rules.hide
    assert hide(f"sent {VALUE}!") == "sent [redacted]!"
    assert hide("the second line of it, and x") == "the [redacted], and x"
    told = {"a": [f"{VALUE}."], VALUE: 1}
    assert secret_rules.without_known(told) == {"a": ["[redacted]."], "[redacted]": 1}


# --- from end to end


PARAMS = """
class Params(BaseModel):
    token: str = ""
    other: dict = {}


class Prober(Agent[Params]):
    Params = Params
"""
LEAK = (
    "[print(kit.secret('mine'), flush=True),"
    " __import__('logging').warning('with %s', kit.secret('mine')), kit.secret('mine')]"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A daemon whose agent prober has two secrets, and opener none; the model wants a key."""
    with a_home(tmp_path_factory.mktemp("secrets"), Keeper) as home:
        home.start(AGENTD_SECRET_env=f"env {VALUE}")
        home.wait("prober", "RUNNING")
        home.wait("opener", "RUNNING")
        yield home


class Keeper(Home):
    module = MODULE.replace("class Prober(Agent[NoParams]):\n", PARAMS)
    files: ClassVar[dict[str, str]] = {
        "prober": TOML.replace(
            "[permissions]",
            '[limits]\nattempts = 1\n[params]\ntoken = "secret:mine"\n'
            'other = { deep = ["secret:env"] }\n[permissions]',
        ),
        "opener": FILES,
    }
    daemon = "[model]\nurl = '{url}'\napi_key = 'secret:key'\n[bus]\npoll = '200ms'\n"

    def prepare(self) -> None:
        super().prepare()
        write(self.paths.secrets / "mine", f"{VALUE}\n")
        write(self.paths.secrets / "key", KEY)


def everywhere(home: Home) -> Iterator[tuple[str, bytes]]:
    for path in home.paths.user.rglob("*"):
        if path.is_file() and path.parent != home.paths.secrets:
            yield str(path), path.read_bytes()


def processes(home: Home) -> list[psutil.Process]:
    daemon = psutil.Process(query(home.paths)["pid"])
    return daemon.children(recursive=True)


def test_an_agent_gets_those_that_its_file_names(home: Home) -> None:
    """By the name, or by the text that stands in its parameters; of nobody else's."""
    assert home.told("len(kit.secret('mine'))") == str(len(VALUE))
    assert home.told("kit.secret('secret:env').startswith('env ')") == "True"
    told = home.told("kit.secret('key')")
    assert "ConfigError" in told and "no parameter names the secret 'key'" in told
    assert "no parameter names the secret" in home.told("kit.secret('mine')", "opener")


def test_it_is_seen_nowhere(home: Home) -> None:
    """Whatever an agent prints, logs, returns, publishes or raises: a value is nowhere on disk,
    in no prompt, in no command line or environment, and not in what commands print."""
    assert home.told(LEAK) == "[None, None, '[redacted]']"
    hands = f"kit.tools.call('ListFiles', {{'path': {str(home.notes)!r}}}).value"
    assert "a.txt" in home.told(hands)
    with contextlib.closing(Bus(home.paths.database, wake=home.paths.wake)) as bus:
        raising = {"code": "{}[kit.secret('mine')]", "raise": True}
        bus.publish("person", NewEvent("probe.it", raising, target="prober"))
        wait_for(bus.dead.list, seconds=DEADLINE_S)
        assert "[redacted]" in bus.dead.list()[0].error
    wait_for(lambda: "[redacted]" in home.paths.log("agentd").read_text(), seconds=DEADLINE_S)
    assert "[redacted]" in home.paths.log("prober").read_text()
    for value in (VALUE, KEY):
        for place, data in everywhere(home):
            assert value.encode() not in data, place
        for request in home.model.requests:
            assert value not in json.dumps(request.body)
        for words in (
            ("status", "--json"),
            ("events", "--json"),
            ("logs", "--json"),
            ("dead", "list"),
        ):
            assert value not in agentd(home.paths.user, *words, "--json").stdout, words
        for process in processes(home):
            with contextlib.suppress(psutil.Error):
                assert value not in str(process.cmdline()), process
                assert value not in str(process.environ()), process


def test_the_models_key_comes_from_a_secret(home: Home) -> None:
    """The supervisor finds it: the worker can read no file of it, and sends it."""
    assert home.told("1 + 1") == "2"
    assert {request.headers["authorization"] for request in home.model.requests} == {
        f"Bearer {KEY}"
    }


def test_the_doctor_names_what_is_missing(home: Home) -> None:
    """With the file that names it; the daemon's own environment cannot be seen from here."""
    looked = json.loads(agentd(home.paths.user, "doctor", "--json").stdout)
    found = [f for f in looked["findings"] if f["name"] == "secrets"]
    assert [f["level"] for f in found] == ["warning", "ok", "ok"]
    assert "no secret env" in found[0]["what"] and "prober.toml" in found[0]["what"]
    assert VALUE not in str(looked)


def test_a_secret_that_is_not_there_parks_the_agent(tmp_path: Path) -> None:
    """It says where it was looked for; its event waits, and is answered once it is there."""
    with a_home(tmp_path, Keeper) as home:
        home.start()
        home.wait("prober", "RUNNING")
        (home.paths.secrets / "mine").unlink()
        code = json.dumps({"code": "kit.secret('mine')", "raise": True})
        assert agentd(home.paths.user, "send", "--to", "prober", "probe.it", code).returncode == 0
        agent = home.wait("prober", "PARKED")
        assert str(home.paths.secrets / "mine") in agent["problem"]["what"]
        write(home.paths.secrets / "mine", VALUE)
        assert agentd(home.paths.user, "resume", "prober").returncode == 0
        with contextlib.closing(Bus(home.paths.database)) as bus:
            wait_for(lambda: bus.events.list(event_type="probe.made"), seconds=DEADLINE_S)
