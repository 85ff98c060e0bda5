"""What is not seen by looking at a file is named where it cannot be read."""

import os
from pathlib import Path

import pytest

from agentd.admission.precheck import Waiting, find_module_and_prompt
from agentd.cli import main
from agentd.config.agent import load_agent
from agentd.errors import ConfigError
from agentd.paths import Paths, discover
from tests.commandline import HELLO


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path / "home"))
    found = discover()
    found.create()
    return found


def odd(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_agent(path)
    return caught.value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('agent\u00a0= "task"\n', "NO-BREAK SPACE (U+00A0)"),
        ('x = 1\nagent =\u3000"task"\n', "IDEOGRAPHIC SPACE (U+3000)"),
        ('\u200bagent = "task"\n', "ZERO WIDTH SPACE (U+200B)"),
        ('agent = "task"\u2028\n', "LINE SEPARATOR (U+2028)"),
        ('agent = "ta\x07sk"\n', "a control character (U+0007)"),
        ('agent = "task"\rdone = "x"\r', "lines end with CR alone"),
        ("agent = \u201ctask\u201d\n", "straight quotes"),
    ],
)
def test_characters_that_are_not_seen_are_named(tmp_path: Path, text: str, hint: str) -> None:
    """As they come from web pages, chats and other systems."""
    path = tmp_path / "reader.toml"
    path.write_bytes(text.encode())
    error = odd(path)
    assert "is not valid TOML" in error.what and hint in error.hint


def test_what_other_lines_hold_is_not_blamed(tmp_path: Path) -> None:
    """Text in quotes may have curly ones, and any space."""
    path = tmp_path / "reader.toml"
    path.write_text('done = "\u201cso\u00a0it\u200bis\u201d"\nagent task\n', encoding="utf-8")
    assert odd(path).hint == "correct that line"


def test_links_that_lead_to_no_file_are_named(paths: Paths) -> None:
    """Of configurations, modules and prompts; the link itself looks well in a listing."""
    gone, ring, folder = (paths.agents_d / f"{name}.toml" for name in ("gone", "ring", "folder"))
    gone.symlink_to("moved.toml")
    ring.symlink_to(ring.name)
    folder.mkdir()
    assert odd(gone).what == "a link to moved.toml, which is not there"
    assert odd(ring).what == "a link that leads back to itself"
    assert odd(folder).what == "a folder, and no file"
    (paths.agents / "code.py").symlink_to("moved.py")
    with pytest.raises(Waiting, match=r"a link to moved\.py") as caught:
        find_module_and_prompt("code", paths, "here")
    assert caught.value.where == str(paths.agents / "code.py")
    (paths.agents / "code.py").unlink()
    (paths.agents / "code.py").touch()
    (paths.baml_src / "code.baml").mkdir()
    with pytest.raises(Waiting, match="a folder, and no file"):
        find_module_and_prompt("code", paths, "here")


def test_what_is_no_file_says_what_it_is(
    paths: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent's name, one that is misspelt, a folder, a pipe and a link are told apart."""
    monkeypatch.chdir(paths.user)
    (paths.agents_d / "hello.toml").write_text(HELLO)
    os.mkfifo(paths.user / "pipe")
    (paths.user / "link").symlink_to("nowhere")

    def said(*words: str) -> str:
        assert main(words) == 2
        return capsys.readouterr().err

    assert f"agentd check {paths.agents_d / 'hello.toml'}" in said("check", "hello")
    assert 'there is no such file; did you mean "hello"?' in said("check", "helo")
    assert "a folder, and no file" in said("check", str(paths.agents_d))
    assert "not a file" in said("check", "pipe")
    assert "a link to nowhere" in said("check", "link")
    assert "a folder, and no file" in said("backup", "--restore", str(paths.agents_d))
