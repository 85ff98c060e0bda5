"""From a dropped file to an accepted version, with the real BAML compiler."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agentd.admission.admit import admit
from agentd.admission.old_versions import prune_versions
from agentd.admission.precheck import Waiting
from agentd.admission.version import (
    import_version,
    load_version,
    read_version,
)
from agentd.errors import ConfigError, StorageError
from agentd.llm.baml import load_client
from agentd.llm.union import Union
from agentd.model_server.calls import Refused
from agentd.model_server.language.language import ModelLanguage
from agentd.paths import Paths, discover
from agentd.testing.tiny_model import make_tiny

TASK = """
agent = "task"
done = "The question is answered in one line."
subscribe = ["note.asked"]
[params]
instructions = "Answer from the notes."
tools = ["ReadFile", "SearchText"]
publish = "note.written"
[permissions]
read = ["/tmp"]
"""
TOML = """
agent = "greeter"
done = "The greeting is written."
[params]
warmth = 3
[permissions]
read = ["/tmp"]
"""
MODULE = """
from pydantic import BaseModel, Field
from agentd.agent import Agent

class Warm(BaseModel):
    warmth: int = Field(1, ge=1, le=9)

class DoneArgs(BaseModel):
    text: str = Field(max_length=50)

class Greeter(Agent[Warm]):
    Params = Warm
    function = "Greet"
    uses = ("ReadFile",)
    publishes = {"greeting.written": DoneArgs}
    arguments = {"Done": DoneArgs}
"""
BAML = """
class Done {
  tool "done"
  text string
}
function Greet(context: string, done: string) -> ReadFile | Done {
  client Local
  prompt #"
    {{ _.role("system") }}
    Done: {{ done }}
    Answer:
    {{ Decisions() }}
    {{ _.role("user") }}
    {{ context }}
  "#
}
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = discover({"AGENTD_HOME": str(tmp_path / "home")})
    found.create()
    return found


def drop(paths: Paths, name: str = "greeter", **files: str) -> None:
    """Write toml, module and baml; what is not given is the working one."""
    given = {"toml": TOML, "module": MODULE, "baml": BAML} | files
    (paths.agents / "greeter.py").write_text(given["module"])
    (paths.baml_src / "greeter.baml").write_text(given["baml"])
    (paths.agents_d / f"{name}.toml").write_text(given["toml"])


def test_what_asks_is_in_the_version_and_an_unsafe_file_is_refused(paths: Paths) -> None:
    """With the place, what could happen, and the lines to write; a refused one leaves nothing."""
    acting = TASK.replace('"SearchText"]', '"WriteFile"]').replace(
        "[permissions]", '[permissions]\nwrite = ["/tmp"]'
    )
    (paths.agents_d / "task_one.toml").write_text(acting)
    accepted = admit("task_one", paths)
    assert dict(accepted.asks) == {
        "WriteFile": "it may change what is not in its own folder; it reads what others wrote "
        "(ReadFile, events note.asked)"
    }
    file = paths.agents_d / "task_one.toml"
    for line, said in (
        ('WriteFile = "allow"', "would do WriteFile without asking"),
        ('WritFile = "ask"', 'did you mean "WriteFile"?'),
    ):
        file.write_text(f"{acting}\n[approve]\n{line}\n")
        with pytest.raises(ConfigError) as error:
            admit("task_one", paths)
        assert said in error.value.what
        assert error.value.where == f"{file}: approve.{line.split()[0]}"
    assert versions(paths, "task_one") == [accepted.hash]
    file.write_text(f'{acting}\n[approve]\nWriteFile = "yes"\n')
    with pytest.raises(ConfigError, match='must be "allow", "ask" or "deny"'):
        admit("task_one", paths)


SCHEDULED = """# The agent's schedule = "none" is below.
agent = "task"
done = '''
schedule = "all is read"'''
{wakes}
watch = ["/tmp/*.txt"]
[params]
instructions = "Say what is in it."
first = [{{ ReadFile = "{first}" }}]
publish = "note.written"
[permissions]
read = ["/tmp"]
"""


@pytest.mark.parametrize(
    ("wakes", "key"),
    [
        ('schedule = { every = "1h" }', "schedule"),
        ('schedule.every = "1h"', "schedule"),
        ('at = "2030-01-01T09:00"', "at"),
    ],
)
def test_a_schedule_beside_a_field_of_an_event_is_refused(
    paths: Paths, wakes: str, key: str
) -> None:
    """Each run would be given up, for it has no file: told before the first one, with the line."""
    file = paths.agents_d / "task_two.toml"
    file.write_text(SCHEDULED.format(wakes=wakes, first="{path}"))
    with pytest.raises(ConfigError, match=f"a run of `{key}` brings no {{path}}") as error:
        admit("task_two", paths)
    assert error.value.where == f"{file}:5: {key}"
    assert error.value.hint.startswith(f"remove `{key}`, or give it to an agent of its own")
    for other, first in (("", "{path}"), (wakes, "/tmp/a.txt"), (wakes, "/tmp/{due}.txt")):
        file.write_text(SCHEDULED.format(wakes=other, first=first))
        admit("task_two", paths)


def versions(paths: Paths, name: str = "greeter") -> list[str]:
    return sorted(p.name for p in (paths.versions / name).iterdir() if p.is_dir())


def test_a_configuration_is_parsed_once_in_each_process(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked, what is hashed and what runs come of the same bytes."""
    drop(paths)
    parsed: list[str] = []
    loads = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    accepted = admit("greeter", paths)
    assert len(parsed) == 1
    assert admit("greeter", paths) == accepted and len(parsed) == 2
    again = read_version(accepted.folder)
    assert again == accepted and import_version(again).function == "Greet" and len(parsed) == 3
    shutil.rmtree(accepted.folder)
    with pytest.raises(ConfigError, match="incomplete or was changed"):
        import_version(again)


def test_an_agent_in_code_is_admitted_and_loaded(paths: Paths) -> None:
    """Dropping module, .baml and TOML is all it takes."""
    drop(paths, "morning")
    accepted = admit("morning", paths)
    assert accepted.name == "morning" and accepted.config.agent == "greeter"
    version = load_version(accepted.folder)
    assert version.agent.__name__ == "Greeter" and version.agent.__module__.endswith(".morning")
    assert version.params.model_dump() == {"warmth": 3}
    assert (version.function, version.uses, version.members) == ("Greet", ("ReadFile",), None)
    assert set(version.arguments) == {"ReadFile", "Done"}
    assert set(version.publishes) == {"greeting.written"}
    assert load_client(version.client_dir).types.ReadFile(tool="read_file", path="x")


def test_an_agent_of_configuration_alone_needs_one_file(paths: Paths) -> None:
    """`agent = "task"`: its tools, its event type and its instructions are params."""
    (paths.agents_d / "notes.toml").write_text(TASK)
    version = load_version(admit("notes", paths).folder)
    assert version.members == ("ReadFile", "SearchText", "Done")
    assert version.uses == ("ReadFile", "SearchText")
    assert set(version.publishes) == {"note.written"}


def test_the_same_content_is_built_once(paths: Paths) -> None:
    """A restart of the supervisor must not compile everything again."""
    drop(paths)
    first = admit("greeter", paths)
    manifest = (first.folder / "manifest.json").stat().st_mtime_ns
    assert admit("greeter", paths) == first
    assert (first.folder / "manifest.json").stat().st_mtime_ns == manifest


@pytest.mark.parametrize(
    ("change", "resumable"),
    [
        ({"toml": TOML + "# a comment\n"}, True),
        ({"toml": "priority = 2\n" + TOML}, True),
        ({"toml": TOML.replace("warmth = 3", "warmth = 4")}, False),
        ({"toml": TOML.replace("is written", "is sent")}, False),
        ({"toml": TOML.replace("/tmp", "/var")}, False),
        ({"toml": TOML + '[approve]\nReadFile = "ask"\n'}, False),
        ({"toml": TOML + "[approve]\n"}, True),
        ({"module": MODULE + "# a comment\n"}, False),
        ({"baml": BAML.replace("Answer:", "Say:")}, False),
    ],
)
def test_what_a_cut_session_can_resume_in(
    paths: Paths, change: dict[str, str], resumable: bool
) -> None:
    """Each change is a version of its own; only code, prompt, params, done and tools end a
    session."""
    drop(paths)
    before = admit("greeter", paths)
    drop(paths, **change)
    after = admit("greeter", paths)
    assert after.hash != before.hash
    assert (after.code_hash == before.code_hash) is resumable


def test_the_last_versions_and_those_in_use_are_kept(paths: Paths) -> None:
    """Checking prunes nothing: only the supervisor knows what runs, however old that is."""
    hashes = []
    for number in range(6):
        drop(paths, toml=TOML + f"# {number}\n")
        hashes.append(admit("greeter", paths).hash)
        os.utime(paths.versions / "greeter" / hashes[-1], (number, number))
    assert versions(paths) == sorted(hashes)
    (paths.versions / "greeter" / ".build-1").mkdir()
    prune_versions(paths.versions / "greeter", {hashes[0], "unknown", ""})
    assert versions(paths) == sorted([".build-1", hashes[0], *hashes[-3:]])
    prune_versions(paths.versions / "nobody", set())


def test_a_toml_that_arrives_first_waits(paths: Paths) -> None:
    """Files arrive one by one: what is missing is said, and nothing is wrong yet."""
    (paths.agents_d / "greeter.toml").write_text(TOML)
    with pytest.raises(Waiting, match=r"no agents/greeter\.py yet") as caught:
        admit("greeter", paths)
    assert "task" in caught.value.hint and "greeter.toml" in caught.value.where
    (paths.agents / "greeter.py").write_text(MODULE)
    with pytest.raises(Waiting, match=r"no baml_src/greeter\.baml yet"):
        admit("greeter", paths)
    (paths.baml_src / "greeter.baml").write_text(BAML)
    assert admit("greeter", paths)


def test_a_persons_file_goes_before_the_shipped_one(paths: Paths) -> None:
    """A user's own task.py replaces ours."""
    (paths.agents / "task.py").write_text(MODULE)
    (paths.baml_src / "task.baml").write_text(BAML)
    (paths.agents_d / "own.toml").write_text(TOML.replace("greeter", "task"))
    assert load_version(admit("own", paths).folder).function == "Greet"


ENUM = "enum Colour { RED GREEN }\n"


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        ({"toml": TOML + "nonsense ="}, "greeter.toml", "TOML"),
        ({"toml": TOML.replace("warmth", "cold")}, "greeter.toml", "params.cold: unknown key"),
        ({"toml": TOML.replace("= 3", "= 30")}, "greeter.toml", "params.warmth"),
        ({"toml": TOML.replace("read", "write")}, "permissions.read", "uses ReadFile, which needs"),
        ({"module": "def half("}, "greeter.py:1", "does not compile"),
        ({"module": "import os\n1 / 0\n"}, "greeter.py:2", "ZeroDivisionError"),
        ({"module": "raise SystemExit(3)\n"}, "greeter.py:1", "SystemExit"),
        ({"module": "x = 1\n"}, "greeter.py", "defines no agent"),
        ({"module": MODULE + "\nclass B(Agent):\n    pass\n"}, "greeter.py", "defines 2"),
        ({"module": MODULE.replace('"Greet"', '""')}, "greeter.py", "does not name its BAML"),
        ({"module": MODULE.replace('"Greet"', '"Meet"')}, "greeter.baml", "no BAML function Meet"),
        ({"module": MODULE.replace("ReadFile", "Fly")}, "greeter.py", "no tool Fly"),
        ({"module": MODULE.replace('("ReadFile",)', "()")}, "greeter.py", "`uses` does not list"),
        ({"module": MODULE.replace('{"Done"', '{"Dnoe"')}, "greeter.py", "not in its union"),
        ({"module": MODULE.replace("text: str", "txt: str")}, "greeter.baml", "txt"),
        ({"module": MODULE + "    def __init__(self, *a): 1 / 0\n"}, "greeter.py:", "created"),
        ({"baml": BAML.replace("string", "strng")}, "greeter.baml:4", "strng"),
        ({"baml": ENUM + BAML}, "greeter.baml:1", "does not compile"),
        ({"baml": BAML + BAML}, "greeter.baml:", "cannot be re-defined"),
        ({"baml": BAML + 'class ReadFile {\n tool "x"\n}\n'}, "baml:", '"ReadFile" cannot be'),
        ({"baml": BAML.replace("  tool", "  text2 string\n  tool")}, "greeter.baml", "begin with"),
        ({"baml": BAML.replace("{{ context }}", "")}, "greeter.baml", "hold `context` once"),
        ({"baml": BAML.replace("{{ done }}", "")}, "greeter.baml", "what done looks like"),
        ({"baml": BAML.replace("ReadFile | Done", "string")}, "greeter.baml", "something else"),
        ({"baml": BAML.replace("| Done", "")}, "greeter.baml", "no Done"),
        ({"baml": BAML.replace("done: string", "goal: string")}, "greeter.baml", "rendered"),
        ({"baml": "function {"}, "greeter.baml:1", "does not compile"),
        ({"baml": "\x00\x1b[31m"}, "greeter.baml", "does not compile"),
    ],
)
def test_whatever_is_wrong_names_its_place_and_the_next_step(
    paths: Paths, files: dict[str, str], where: str, what: str
) -> None:
    """One clear error; and nothing of the attempt is left."""
    drop(paths, **files)
    with pytest.raises(ConfigError) as caught:
        admit("greeter", paths)
    error = caught.value
    assert not isinstance(error, Waiting)
    assert what in error.what and where in error.where, str(error)
    assert error.hint and "\x1b" not in str(error) and "Traceback" not in str(error)
    assert str(paths.versions) not in str(error), "names the file that a person wrote"
    if (paths.versions / "greeter").is_dir():
        assert versions(paths) == []


def test_a_union_may_have_a_name(paths: Paths) -> None:
    """BAML's type aliases are unions all the same."""
    alias = BAML.replace("-> ReadFile | Done", "-> Step") + "type Step = ReadFile | Done\n"
    drop(paths, baml=alias)
    assert admit("greeter", paths)


def many(count: int) -> str:
    """Return a prompt whose union has so many classes of three fields, with Done."""
    classes = "".join(
        f'class Act{n} {{\n  tool "act{n}"\n  a string\n  b int\n  c bool\n}}\n'
        for n in range(count)
    )
    acts = " | ".join(f"Act{n}" for n in range(count))
    return classes + BAML.replace("-> ReadFile | Done", f"-> {acts} | Done")


def test_a_union_that_our_model_server_refuses_is_refused(paths: Paths) -> None:
    """Else each decision of the agent would fail, with a server's word on a schema.

    An external server may take it, also after the version was built. Who serves is not known from
    an agentd.toml that is wrong: that is told by itself, and counts as our own.
    """
    file = paths.agents_d / "greeter.toml"
    drop(paths, baml=many(340))
    with pytest.raises(ConfigError, match="its union of 341 classes is refused: more than") as no:
        admit("greeter", paths)
    assert no.value.where == str(file)
    assert "fewer tools" in no.value.hint and "[model] url" in no.value.hint
    paths.daemon_file.write_text('[model]\nurl = "http://localhost:1/v1"\n')
    union = union_of(admit("greeter", paths).folder)
    make_tiny(paths.user / "model")
    with pytest.raises(Refused, match="more than 2000 schemas"):
        ModelLanguage(paths.user / "model").mask(union.schema(union.members))
    for ours in ("", "[model\n"):
        paths.daemon_file.write_text(ours)
        with pytest.raises(ConfigError, match="its union of 341 classes"):
            admit("greeter", paths)


def union_of(folder: Path) -> Union:
    """Return the union that a version's worker builds."""
    version = load_version(folder)
    client = load_client(version.client_dir)
    return Union(client, version.function, version.members, version.arguments, version.mcp)


def test_one_broken_baml_leaves_the_others_alone(paths: Paths) -> None:
    """Each agent is compiled from the shared files and its own alone."""
    drop(paths, baml="function {")
    (paths.agents_d / "notes.toml").write_text(TASK)
    with pytest.raises(ConfigError):
        admit("greeter", paths)
    assert admit("notes", paths)
    drop(paths)  # its own Done stands beside task.baml's
    assert admit("greeter", paths)


def test_a_killed_build_leaves_nothing(paths: Paths) -> None:
    """A half-built folder is cleared by the next build, whoever left it."""
    drop(paths)
    left = paths.versions / "greeter" / ".build-left"
    left.mkdir(parents=True)
    (left / "agent.py").write_text("half")
    accepted = admit("greeter", paths)
    assert versions(paths) == [accepted.hash]


@pytest.mark.parametrize("damage", ["agent.py", "baml_client/types.py", "manifest.json"])
def test_a_damaged_version_is_not_run(paths: Paths, damage: str) -> None:
    """What runs is what was checked: a changed folder is refused, and built again when asked."""
    drop(paths)
    accepted = admit("greeter", paths)
    (accepted.folder / damage).write_text("{}")
    with pytest.raises(ConfigError, match="incomplete or was changed"):
        load_version(accepted.folder)
    assert load_version(admit("greeter", paths).folder).function == "Greet"


def test_nothing_of_a_version_is_others(paths: Paths) -> None:
    """A version is what runs: whatever the umask, all of it is this user's alone."""
    drop(paths)
    before = os.umask(0)
    try:
        folder = admit("greeter", paths).folder
    finally:
        os.umask(before)
    found = [folder.parent, *folder.parent.rglob("*")]
    assert len(found) > 10
    assert [path for path in found if path.stat().st_mode & 0o077] == []
    assert load_version(folder).function == "Greet"


def test_an_unwritable_versions_folder_is_a_storage_error(paths: Paths) -> None:
    """A disk's fault is not the configuration's: it may pass."""
    drop(paths)
    paths.versions.rmdir()
    paths.versions.write_text("a file in the way")
    with pytest.raises(StorageError):
        admit("greeter", paths)


def run(paths: Paths, *args: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "agentd.admission", *args],
        env={**os.environ, "AGENTD_HOME": str(paths.user)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_the_supervisor_runs_it_as_a_process(paths: Paths) -> None:
    """A person's module may crash or print; the supervisor reads one JSON line and an exit code."""
    drop(paths, module="print('hello')\n" + MODULE)
    code, outcome, _ = run(paths, "greeter")
    assert code == 0 and outcome["ok"] is True and outcome["subscribe"] == []
    assert outcome["triggers"]["schedule"] is None
    assert outcome["version"] == admit("greeter", paths).hash
    drop(paths, toml="schedule = { every = '60m' }" + TOML)
    assert run(paths, "greeter")[1]["triggers"]["schedule"] == "every 1h"
    drop(paths, baml="function {")
    code, outcome, errors = run(paths, "greeter")
    assert (code, outcome["ok"], outcome["waiting"]) == (78, False, False)
    assert outcome["error"].keys() == {"what", "where", "hint"} and "Traceback" not in errors
    assert run(paths, "../etc")[0] == 78


def test_admitting_imports_no_baml_when_nothing_changed(paths: Paths) -> None:
    """A warm start costs no BAML: 0.3 s and 30 MB for each agent."""
    drop(paths)
    admit("greeter", paths)
    script = (
        "import sys; from agentd.admission.admit import main; code = main(['greeter'])\n"
        "sys.exit(code or 9 * ('baml_py' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "AGENTD_HOME": str(paths.user)},
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
