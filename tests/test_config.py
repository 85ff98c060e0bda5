"""Configuration: every problem is one clear error, and the shipped files hold to the models."""

import json
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.bus import Bus
from agentd.config.__main__ import PAGE, page, schemas
from agentd.config.agent import AgentConfig, load_agent
from agentd.config.daemon import load_daemon
from agentd.config.duration import written
from agentd.errors import ConfigError
from agentd.paths import discover, shipped

GOOD = 'agent = "task"\ndone = "Something is done."\n'


def agent(folder: Path, text: str, name: str = "reader") -> AgentConfig:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return load_agent(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('agent = "task"', "done: is missing"),
        (GOOD + "colour = 1", "colour: unknown key"),
        (GOOD + "[limits]\nturns = 0", "limits.turns: must be at least 1"),
        (GOOD + "[limits]\nturn = 1", "limits.turn: unknown key"),
        (GOOD + 'schedule = { cron = "0 9 * *" }', "cron: not a crontab expression"),
        (GOOD + 'schedule = { cron = "61 9 * * *" }', "cron: not a crontab expression"),
        (GOOD + 'schedule = { cron = "0 0 31 2 *" }', "cron: never due"),
        (GOOD + 'schedule = { every = "soon" }', 'every: write a duration as "30s"'),
        (GOOD + 'schedule = { every = "0s" }', "every: must be longer than zero"),
        (
            GOOD + 'schedule = { every = "99999999999999d" }',
            "every: must be longer than zero and at",
        ),
        (GOOD + 'schedule = { daily = "9:00" }', "schedule: give { every"),
        (GOOD + 'missed = "maybe"', "missed"),
        (GOOD + 'subscribe = ["Repo Changed"]', "is no event type"),
        (GOOD + 'start = "later"', 'start: must be "now" or "beginning"'),
        (GOOD + "done = 1", "is not valid TOML"),
        ("agent = ", "is not valid TOML: Invalid value"),
        ("x = " + "[" * 5000, "is not valid TOML|nests too deeply"),
    ],
)
def test_wrong_file_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    """A wrong configuration says which file, which key, what is wrong, and what to do."""
    with pytest.raises(ConfigError) as caught:
        agent(tmp_path, text)
    assert re.search(re.escape(message) if "|" not in message else message, caught.value.what)
    assert caught.value.where == str(tmp_path / "reader.toml")
    assert caught.value.hint


def test_an_unknown_key_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    """Most unknown keys are misspelt: the error lists those of that very table."""
    with pytest.raises(ConfigError) as caught:
        agent(tmp_path, GOOD + "[limits]\nturn = 1")
    assert "there are turns, deadline, " in caught.value.what


@pytest.mark.parametrize("load", [load_agent, load_daemon])
def test_a_pipe_or_an_endless_device_is_not_waited_for(
    tmp_path: Path, load: Callable[[Path], object]
) -> None:
    """The supervisor itself reads these files: one that blocks would stop everything."""
    pipe, endless = tmp_path / "pipe.toml", tmp_path / "endless.toml"
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    for path in (pipe, endless):
        with pytest.raises(ConfigError, match="not a file"):
            load(path)


def test_unreadable_files(tmp_path: Path) -> None:
    """Binary files, folders, huge files and dangling links are errors like any other."""
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "huge.toml").write_bytes(b"#" * 300_000)
    (tmp_path / "gone.toml").symlink_to(tmp_path / "nowhere")
    for name in ("binary", "folder", "huge", "gone"):
        with pytest.raises(ConfigError) as caught:
            load_agent(tmp_path / f"{name}.toml")
        assert f"{name}.toml" in caught.value.where


@pytest.mark.parametrize("name", ["agentd", "Person", "a-b", "1st", "x" * 49, "modél"])
def test_name_that_cannot_be_an_agent(tmp_path: Path, name: str) -> None:
    """Names that would clash with producers, lanes or sockets are refused."""
    with pytest.raises(ConfigError, match="cannot name an agent"):
        agent(tmp_path, GOOD, name)


@given(st.binary(max_size=300))
def test_garbage_is_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """Whatever a file holds, it is a configuration or a ConfigError."""
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_bytes(data)
    for load in (load_agent, load_daemon):
        try:
            load(path)
        except ConfigError as error:
            assert str(path) in str(error)


def test_missing_daemon_file_gives_defaults(tmp_path: Path) -> None:
    """A home without agentd.toml runs on the bundled model."""
    assert load_daemon(tmp_path / "agentd.toml").model.name == "smollm2-135m"


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x/v1", "http://", "http://user:secret@host/v1"]
)
def test_model_url(tmp_path: Path, url: str) -> None:
    """A URL that cannot work, or holds a secret, is refused."""
    path = tmp_path / "agentd.toml"
    path.write_text(f'[model]\nurl = "{url}"')
    with pytest.raises(ConfigError, match=r"model\.url"):
        load_daemon(path)


@given(st.integers(1, 10**11))
def test_durations_read_back(milliseconds: int) -> None:
    """A duration is written the way it is read."""
    value = timedelta(milliseconds=milliseconds)
    config = AgentConfig.model_validate(
        {"agent": "task", "done": "Something is done.", "missed": written(value)}
    )
    assert config.missed == value
    assert json.loads(config.model_dump_json())["missed"] == written(value)


def test_shipped_schemas_hold_to_the_models() -> None:
    """The files that editors read are those of the models (`python -m agentd.config config`)."""
    for name, text in schemas().items():
        assert (shipped() / "config" / name).read_text() == text


def test_page_of_all_keys_holds_to_the_models() -> None:
    """Every key is documented, and no other (`python -m agentd.config config`)."""
    text = (shipped() / "config" / PAGE).read_text()
    assert page(text) == text
    for key in ("schedule", "limits.turns", "model.name", "retention.database_bytes"):
        assert text.count(f"\n| `{key}` | ") == 1
    assert "stale" not in page("<!-- keys of agentd.toml -->\nstale\n<!-- end -->")


def test_shipped_configuration_is_valid_and_off(tmp_path: Path) -> None:
    """What a first run copies is valid, and starts nothing before a person says so."""
    load_daemon(shipped() / "config" / "agentd.toml")
    files = sorted((shipped() / "config" / "agents.d").glob("*.toml"))
    assert files
    for file in files:
        assert not load_agent(file).enabled
        assert file.read_text().startswith("#:schema ../agent.schema.json\n")


def test_our_folders_are_private(tmp_path: Path) -> None:
    """Events, logs and accepted versions are nobody else's; the database's mode is its own."""
    paths = discover({"AGENTD_HOME": str(tmp_path / "home")})
    paths.create()
    for folder in (paths.logs, paths.versions, paths.models, paths.run):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    bus = Bus(paths.database)
    for path in paths.data.glob("agentd.db*"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    bus.close()


def test_a_poll_is_no_longer_than_a_promise(tmp_path: Path) -> None:
    """An idle worker beats at each poll: one of an hour would look hung."""
    path = tmp_path / "agentd.toml"
    path.write_text('[bus]\npoll = "1h"\n')
    with pytest.raises(ConfigError, match=r"bus.poll: at most 10m"):
        load_daemon(path)
