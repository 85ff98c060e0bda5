"""`agentd check` ends, and does not call right what cannot work."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.admission.admit import admit
from agentd.cli import main
from agentd.commands.advice import agent_problem, unlikely
from agentd.commands.checked import Checked
from agentd.commands.subscriptions import unheard
from agentd.config.agent import load_agent
from agentd.errors import ConfigError
from agentd.paths import Paths, discover
from agentd.supervisor import checks
from tests.commandline import HELLO, write_agent
from tests.supervised import alive, wait_for
from tests.test_admission import BAML, MODULE, TOML, drop

LISTENER = HELLO.replace('"note.*"', '"agent.started"')  # nothing to warn of


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path / "home"))
    found = discover()
    found.create()
    model = found.models / "smollm2-135m"
    model.mkdir()
    (model / "config.json").touch()
    return found


@pytest.fixture
def check(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run `agentd check --json`; return what it printed, with its exit code."""

    def run(*words: str) -> dict[str, Any]:
        code = main(["check", "--json", *words])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return {"code": code, **json.loads(out)}

    return run


def problem(found: dict[str, Any], name: str = "reader") -> dict[str, Any]:
    (one,) = found["problems"]
    assert found["code"] == 1 and found["ok"] is False and one["name"] == name
    assert one["hint"] and one["where"]
    return dict(one)


Check = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("draft", [False, True])
def test_a_module_that_never_returns_is_given_up(
    draft: bool, paths: Paths, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the daemon's own 30 s; nothing of it is left, and the others are checked meanwhile."""
    write_agent(paths.user, "reader", LISTENER)
    began = time.monotonic()
    check()
    deadline_s = max(3.0, 5 * (time.monotonic() - began))  # on a busy machine a right one's is late
    monkeypatch.setattr(checks, "DEADLINE_S", deadline_s)
    mark = tmp_path / "pid"
    loop = f"import os\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\nwhile True:\n    pass\n"
    drop(paths, module=loop)
    words = []
    if draft:
        file = (paths.agents_d / "greeter.toml").rename(tmp_path / "greeter.toml")
        words = [str(file)]
    found = check(*words)
    one = problem(found, "greeter")
    assert f"took longer than {deadline_s:g} s" in one["what"]
    assert "import" in one["hint"] and "`published`" in one["hint"]
    assert draft or "reader" in found["checked"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_module_that_ends_the_process_is_named(paths: Paths, check: Check) -> None:
    """It took `agentd check` with it."""
    drop(paths, module="import os\nos._exit(3)\n")
    assert "died (exit 3)" in problem(check(), "greeter")["what"]


@pytest.mark.parametrize(
    "said",
    [
        'import sys; sys.stdout.write("loading...")',
        'import os; os.write(1, b"loading..."); os.write(2, b"...")',
        'import os; os.write(1, b"\\n".join([b"x" * 79] * 9000))',
        """print('{"ok": false, "error": {"what": "forged"}}', flush=True)""",
        "import atexit; atexit.register(print, '{\"ok\": false}')",
        "import os; os.close(1); os.close(2)",
        "import sys; sys.stdout = sys.stderr = None",
    ],
)
def test_what_a_module_prints_is_no_part_of_the_answer(
    said: str, paths: Paths, check: Check
) -> None:
    """At its first check and at later ones, in whatever way it does that."""
    drop(paths, module=f"{said}\n{MODULE}")
    for _ in range(2):
        found = check()
        assert found["problems"] == [] and "greeter" in found["checked"]


def test_a_module_cannot_answer_in_place_of_its_check(paths: Paths, check: Check) -> None:
    """Whatever it prints before it ends the process."""
    drop(
        paths,
        module="""import os\nprint('{"ok": true, "version": "x"}', flush=True)\nos._exit(0)\n""",
    )
    assert "died (exit 0)" in problem(check(), "greeter")["what"]


def test_a_draft_is_named_where_it_lies(paths: Paths, check: Check, tmp_path: Path) -> None:
    """And not in the throw-away home in which it is checked, also behind a link of another name."""
    draft = tmp_path / "reader.toml"
    draft.write_text(HELLO.replace('"task"', '"nowhere"'))
    one = problem(check(str(draft)))
    assert one["where"] == str(draft) and str(paths.agents) in one["hint"]
    assert "agentd-check-" not in str(one)
    other = tmp_path / "dotfiles.txt"
    draft.rename(other)
    draft.symlink_to(other)
    assert problem(check(str(draft)))["name"] == "reader"
    assert main(["check", str(other)]) == 2, "the daemon would not read it either"


@pytest.mark.parametrize(
    ("permissions", "key", "what"),
    [
        ('read = ["notes"]', "read", "'notes'"),
        ('read = ["/tmp", "./notes"]', "read", "'./notes'"),
        ('read = ["$HOME/notes"]', "read", "'$HOME/notes'"),
        ('read = ["~nobody-of-this-name/x"]', "read", "~nobody"),
        ('read = [""]', "read", "''"),
        ('read = ["/a\\u0000b"]', "read", "a\\x00b"),
        ('write = ["../notes"]', "write", "'../notes'"),
        ('read = ["file:///tmp"]', "read", "file:"),
        ('net = ["https://example.org/"]', "net", "https://example.org/"),
        ('net = ["*.example.org"]', "net", "*.example.org"),
        ('net = ["example.org:80x"]', "net", "example.org:80x"),
        ('net = ["ex ample.org"]', "net", "ex ample.org"),
        ('net = [""]', "net", "''"),
        *(
            (f'net = ["{entry}"]', "net", f"'{entry}'")
            for entry in (
                *("example.org/path", "example.org:8080/path", "user@example.org", "//example.org"),
                *("example.org?x", "example.org#a", "example.org:", "example.org:0", ":80"),
                *("example.org:65536", "example.org:080000", "-x.org", "x-.org", "a..org", "."),
                *("256.1.1.1", "1.2.3", "1.2.3.4.5", "999999999999", "0x7f.1", "0x7f000001"),
                *("example.1", "[example.org]", "[::1", "::1]", "[::1]x", "[1.2.3.4]", "1:2:3"),
            )
        ),
        ('run = ["./build.sh"]', "run", "./build.sh"),
        ('run = ["bin/tool"]', "run", "bin/tool"),
        ('run = [""]', "run", "''"),
    ],
)
def test_a_permission_that_allows_nothing_is_wrong(
    permissions: str, key: str, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "reader.toml"
    file.write_text(f"{LISTENER}[permissions]\n{permissions}\n")
    error = agent_problem(load_agent(file), file)
    assert error is not None and what in error.what and error.hint
    assert error.where == f"{file}: permissions.{key}"


def test_such_a_permission_fails_the_check(paths: Paths, check: Check) -> None:
    for entry in ("notes", "~nobody-of-this-name/x"):
        write_agent(paths.user, "reader", f'{LISTENER}[permissions]\nread = ["{entry}"]\n')
        assert f"'{entry}' is no absolute path" in problem(check())["what"]


@pytest.mark.parametrize(
    "permissions",
    [
        'read = ["/tmp", "/", "/etc/hosts", "~"]\nwrite = ["/tmp"]',
        'net = ["example.org", "EXAMPLE.org:8080", "127.0.0.1", "::1", "[::1]:80", "localhost:1"]',
        'net = ["fe80::1%eth0", "3com.example", "a_b.example", "x--y.example", "1.2.3.4:65535"]',
        'net = ["xn--mller-kva.example", "example.org.", "example.org/"]\nrun = ["ls", "/bin/sh"]',
    ],
)
def test_what_works_is_right(permissions: str, tmp_path: Path) -> None:
    """With nothing to say about it."""
    file = tmp_path / "reader.toml"
    file.write_text(f"{LISTENER}[permissions]\n{permissions}\n")
    config = load_agent(file)
    assert agent_problem(config, file) is None and list(unlikely(config)) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[permissions]\nread = ["/not/there"]', "permissions.read: /not/there is not there"),
        ('[permissions]\nread = ["/tmp/*.md"]', "wildcards are not read"),
        ('[permissions]\nwrite = ["/not/there"]', "permissions.write: /not/there is not there"),
        ('[permissions]\nrun = ["gti"]', "permissions.run: gti is not installed"),
        ('[permissions]\nrun = ["git status"]', "without arguments"),
        ('[permissions]\nrun = ["/opt/none"]', "/opt/none is not installed"),
    ],
)
def test_what_may_come_still_is_said(text: str, what: str, tmp_path: Path) -> None:
    """A disk that is not mounted, a program that is not installed yet."""
    file = tmp_path / "reader.toml"
    file.write_text(f"{LISTENER}{text}\n")
    (said,) = unlikely(load_agent(file))
    assert what in said


def test_what_may_come_still_is_a_warning(paths: Paths, check: Check) -> None:
    """Nothing is refused for it."""
    text = f'{LISTENER}tools = ["ReadFile"]\n[permissions]\nread = ["/not/there"]\n'
    write_agent(paths.user, "reader", text)
    found = check()
    (warning,) = found["warnings"]
    assert found["code"] == 0 and found["ok"] is True
    assert "/not/there" in warning["what"] and warning["agents"] == ["reader"]
    write_agent(paths.user, "reader", f"enabled = false\n{text}")
    assert check()["warnings"] == [], "nobody wants it to run"


def test_an_agent_that_nothing_wakes_is_a_warning(paths: Paths, check: Check) -> None:
    """It can be triggered."""
    write_agent(paths.user, "reader", HELLO.replace('["note.*"]', "[]"))
    (warning,) = check()["warnings"]
    assert "nothing wakes it" in warning["what"]
    text = HELLO.replace('subscribe = ["note.*"]', 'schedule = { every = "1h" }')
    write_agent(paths.user, "reader", text)
    assert check()["warnings"] == []


@pytest.mark.parametrize(
    ("subscribe", "heard"),
    [
        *(("a.written", True), ("a.*", True), ("agent.crashed", True), ("person.asked", True)),
        *(("schedule.*", True), ("a.writen", False), ("b.*", False), ("own.written", False)),
    ],
)
def test_a_subscription_that_nobody_serves_is_told(subscribe: str, heard: bool) -> None:
    """An agent does not hear itself; the daemon and the loop publish, too."""
    agents = [
        Checked("writer", None, publishes=("a.written",)),
        Checked("reader", None, subscribe=(subscribe,), publishes=("own.written",)),
    ]
    said = list(unheard(agents))
    assert bool(said) is not heard
    assert all(subscribe in what and names == ["reader"] for what, names in said)


def test_files_come_to_who_watches() -> None:
    """What to write is said: a subscription to them hears nothing."""
    ((what, _),) = unheard([Checked("reader", None, subscribe=("file.changed",))])
    assert "`watch`" in what and "send" not in what


def test_such_a_subscription_is_a_warning(paths: Paths, check: Check) -> None:
    """A person may send anything; and of one file alone nobody knows who else there is."""
    file = write_agent(paths.user, "reader", HELLO)
    found = check()
    assert found["code"] == 0 and "note.*" in found["warnings"][0]["what"]
    assert check(str(file))["warnings"] == []


RETURNS = "    @classmethod\n    def published(cls, params): return {}\n"
RAISING = (
    MODULE
    + """
    class Params(NoParams):
        @model_validator(mode="before")
        def _look(cls, value):
            return value["there is none"]
"""
)
RAISING = f"from pydantic import model_validator\nfrom agentd.agent import NoParams\n{RAISING}"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"baml": BAML.replace("tool \"done\"", "tool \"read_file\"")}, "have the same tool"),
        ({"module": MODULE.replace(": DoneArgs}\n", ': "DoneArgs"}\n', 1)}, "'DoneArgs'"),
        ({"module": MODULE.replace("greeting.written", "Greeting written")}, "no event type"),
        ({"module": MODULE.replace("greeting.written", "agent.started")}, "type of the system"),
        ({"module": MODULE.replace('{"greeting.written": DoneArgs}', '["a.b"]')}, "table"),
        ({"module": MODULE.replace('("ReadFile",)', '("ReadFile")')}, "`uses` is 'ReadFile'"),
        ({"module": MODULE + '    reads = ("ReadFile",)\n'}, "`reads` is ('ReadFile',)"),
        ({"module": MODULE + '    idempotent = "ReadFile"\n'}, "`idempotent` is"),
        ({"module": MODULE + '    accepts = {"a.b": {"text": str}}\n'}, "`accepts` has"),
        ({"module": MODULE + '    arguments = {"Done": "DoneArgs"}\n'}, "`arguments` has"),
        ({"module": MODULE + "    volatile = None\n"}, "`volatile` is None"),
        ({"module": f"{MODULE}{RETURNS.format('1 / 0')}"}, "ZeroDivisionError"),
        ({"module": f"{MODULE}{RETURNS.format('exit(3)')}"}, "SystemExit"),
        ({"module": f"{MODULE}{RETURNS.format('7')}"}, "`publishes` is 7"),
        ({"module": f"{MODULE}{RETURNS.replace('published', 'chosen').format('7')}"}, "`chosen`"),
        ({"module": MODULE + "    Params = dict\n"}, "`Params` is <class 'dict'>"),
        ({"module": MODULE + '    Params = {"text": str}\n'}, "`Params` is {'text'"),
        ({"module": RAISING}, "cannot check its parameters: KeyError"),
        ({"module": MODULE + '    arguments = ["Done"]\n'}, "`arguments` is ['Done']"),
        ({"module": MODULE + "    def prompt_arguments(self): return 7\n"}, "TypeError"),
        ({"module": MODULE + "    def __init__(self, params, kit): exit(0)\n"}, "SystemExit"),
        *(
            ({"module": f"{MODULE}    {method}\n"}, what)
            for method, what in (
                ("def begin(self): pass", "`begin` cannot be called"),
                ("def begin(self, event): pass", "`begin` cannot be called"),
                ("def opening(self): pass", "`opening` cannot be called"),
                ("def barred(self, turn): return frozenset()", "`barred` cannot be called"),
                ("def dispatch(self): pass", "`dispatch` cannot be called"),
                ("def finish(self): return 5", "`finish` cannot be called"),
                ("def finish(self, done, event, results, *, more): pass", "`finish` cannot be"),
                ("@staticmethod\n    def finish(self, done, event, results): pass", "`finish` can"),
                ("@classmethod\n    def finish(cls, done): pass", "`finish` cannot be called"),
                ("async def finish(self, done, event, results): pass", "asynchronous"),
                ("def dispatch(self, decision): yield decision", "yields"),
                ("finish = None", "`finish` is None, and no method"),
                ("finish = property(lambda self: 5)", "no method"),
            )
        ),
    ],
)  # fmt: skip
def test_a_class_that_declares_nonsense_is_wrong(
    change: dict[str, str], what: str, paths: Paths
) -> None:
    """Each of these was a traceback at the first event."""
    drop(paths, **change)
    with pytest.raises(ConfigError) as caught:
        admit("greeter", paths)
    assert what in caught.value.what and caught.value.hint
    assert "greeter." in caught.value.where


@pytest.mark.parametrize(
    "method",
    [
        "def begin(self, *args): pass",
        "def barred(self, more=None): return frozenset()",
        "@staticmethod\n    def finish(done, event, results): pass",
        "@classmethod\n    def finish(cls, done, event, results, **more): pass",
        "finish = lambda self, done, event, results: None",
        "def opening(self, event, /): return super().opening(event)",
    ],
)
def test_a_method_that_can_be_called_is_right(method: str, paths: Paths) -> None:
    """In whatever way it is written."""
    drop(paths, module=f"{MODULE}    {method}\n")
    admit("greeter", paths)


LIMITS = {
    "turns = 1": "limits.turns = 1",
    'deadline = "1ms"': "limits.deadline",
    'no_progress = "999ms"': "limits.no_progress",
    "context_share = 0.0001": "limits.context_share",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_leaves_no_chance_is_a_warning(limit: str, paths: Paths, check: Check) -> None:
    drop(paths, toml=f"{TOML}\n[limits]\n{limit}\n")
    config = paths.models / "smollm2-135m" / "config.json"
    config.write_text('{"max_position_embeddings": 2048}')
    told = [w["what"] for w in check()["warnings"] if "limits." in w["what"]]
    assert len(told) == 1 and LIMITS[limit] in told[0]


def test_limits_that_leave_one_are_none(paths: Paths, check: Check) -> None:
    """An agent that only says something needs one turn; and not every window is known here."""
    text = LISTENER + '[limits]\nturns = 1\ndeadline = "1s"\ncontext_share = 0.1\n'
    write_agent(paths.user, "reader", text)
    assert check()["warnings"] == []
    paths.daemon_file.write_text('[model]\nurl = "http://127.0.0.1:9/v1"\n')
    write_agent(paths.user, "reader", text.replace("0.1", "0.0001"))
    assert check()["warnings"] == []
    paths.daemon_file.write_text('[model]\nurl = "http://127.0.0.1:9/v1"\ncontext_window = 4096\n')
    (warning,) = check()["warnings"]
    assert "0 of the model's 4096 tokens" in warning["what"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("draft", [False, True])
def test_a_check_that_is_cut_off_leaves_nothing(
    draft: bool, number: signal.Signals, paths: Paths, tmp_path: Path
) -> None:
    """Neither its folders nor the process of the module that it waits for."""
    mark, temporary = tmp_path / "pid", tmp_path / "temporary"
    temporary.mkdir()
    write = f"import os\nopen({str(mark)!r} + '1', 'w').write(str(os.getpid()))\n"
    done = f"os.rename({str(mark)!r} + '1', {str(mark)!r})\nwhile True:\n    pass\n"
    drop(paths, module=write + done)
    words = []
    if draft:
        words = [str((paths.agents_d / "greeter.toml").rename(tmp_path / "greeter.toml"))]
    process = subprocess.Popen(
        [sys.executable, "-m", "agentd", "check", *words],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(mark.exists, "the module runs")
    assert list(temporary.iterdir())
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number and said == ""
    assert list(temporary.iterdir()) == []
    wait_for(lambda: not alive(int(mark.read_text())), "the module's process is gone")


def test_what_an_agent_publishes_is_kept_with_its_version(paths: Paths) -> None:
    """So that a check need not import it again."""
    drop(paths, toml=TOML)
    assert admit("greeter", paths).publishes == ("greeting.written",)
    assert admit("greeter", paths).publishes == ("greeting.written",), "read from the manifest"


# --- the daemon's own file


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('name = "smolm2-135m"', "no model: neither a bundled name"),
        ('name = "/not/there"', "no model: neither"),
        ('url = "http://127.0.0.1:9/v1"\napi_key_file = "/not/there"', "cannot be read"),
        ('url = "http://127.0.0.1:9/v1"\napi_key_file = "/tmp"', "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_reached_is_wrong(
    text: str, what: str, paths: Paths, check: Check
) -> None:
    paths.daemon_file.write_text(f"[model]\n{text}\n")
    one = problem(check(), "agentd")
    assert what in one["what"] and "agentd.toml: model." in one["where"]
    assert problem(check(str(paths.daemon_file)), "agentd") == one


def test_a_misspelt_model_names_the_right_one(paths: Paths, check: Check) -> None:
    paths.daemon_file.write_text('[model]\nname = "smolm2-135m"\n')
    assert 'did you mean "smollm2-135m"?' in problem(check(), "agentd")["hint"]


def test_a_model_that_is_not_pulled_is_a_warning(paths: Paths, check: Check) -> None:
    """Nothing is wrong with the file."""
    paths.daemon_file.write_text('[model]\nname = "org/name"\n')
    found = check()
    (warning,) = found["warnings"]
    assert found["code"] == 0 and "agentd model pull org/name" in warning["what"]


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_can_read_is_a_warning(
    mode: int, warned: bool, paths: Paths, check: Check, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-1\n")
    key.chmod(mode)
    url = "http://127.0.0.1:9/v1"
    paths.daemon_file.write_text(f'[model]\nurl = "{url}"\napi_key_file = "{key}"\n')
    found = check()
    assert found["code"] == 0
    assert bool([w for w in found["warnings"] if f"chmod 600 {key}" in w["what"]]) is warned
    assert "sk-1" not in str(found)
