"""RunShortcut, AddReminder, AddNote: exact command lines, and what they are refused."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.events import NewEvent
from agentd.hands import permitted
from agentd.hands.permitted import sandbox_for
from agentd.macos import scripts
from agentd.sandbox.level import reached
from agentd.sandbox.policy import SandboxPolicy
from agentd.sandbox.seatbelt import Profile
from agentd.testing import ManualClock, run_agent
from agentd.tools.base import Output
from agentd.tools.closed import Closed
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.toolbox import Toolbox
from tests.test_hands import Hand, home, orders, start
from tests.test_reading import local
from tests.test_seatbelt import Rules

__all__ = ["home", "local", "start"]
STAND_IN = """
import sys
from agentd.macos import scripts
scripts.OSASCRIPT = sys.argv[1]
from agentd.hands.__main__ import main
sys.exit(main())
"""
APPS = ("calendar", "reminders", "notes", "shortcut:Water plants")
EVIL = '"); app.quit(); ("\n-e `id` $(id) -- \\'


class Mac:
    """Stands for the programs of macOS: what they were run with."""

    def __init__(self, output: bytes = b"Errands\n", code: int = 0) -> None:
        self.argv: list[str] = []
        self.given: str | None = None
        self.output = Output(code, output, 0)
        self.tools = Toolbox(Permissions(apps=APPS), programs=self.run)

    def run(self, argv: Sequence[str]) -> Output:
        self.argv = list(argv)
        if "--input-path" in argv:
            self.given = Path(argv[argv.index("--input-path") + 1]).read_text("utf-8")
        if "--output-path" in argv:
            Path(argv[argv.index("--output-path") + 1]).write_bytes(b"grown\0")
        return self.output

    def call(self, tool: str, /, **args: Any) -> dict[str, Any]:
        return dict(self.tools.call(tool, args).value)


def test_a_shortcut_is_run_by_its_name() -> None:
    """Its input is a file, and so is what it gives."""
    mac = Mac()
    assert mac.call("RunShortcut", name="Water plants", input=EVIL) == {"output": "grown\ufffd"}
    given, result = mac.argv[4], mac.argv[6]
    assert mac.argv == [
        *("/usr/bin/shortcuts", "run", "Water plants"),
        *("--input-path", given, "--output-path", result),
    ]
    assert mac.given == EVIL and not Path(given).parent.exists()
    mac.call("RunShortcut", name="Water plants")
    assert mac.argv[:3] == ["/usr/bin/shortcuts", "run", "Water plants"]
    assert "--input-path" not in mac.argv


def test_a_reminder_is_data_for_a_fixed_script() -> None:
    """Whatever it says; its time is told with its zone."""
    mac = Mac()
    assert mac.call("AddReminder", title=EVIL, list="-e", due="2026-12-24T09:00:00+01:00") == {
        "title": EVIL,
        "list": "Errands",
    }
    head = ["/usr/bin/osascript", "-l", "JavaScript", "-e", scripts.ADD_REMINDER, "--"]
    assert mac.argv[:-1] == [*head, EVIL, "-e"]
    assert datetime.fromisoformat(mac.argv[-1]) == datetime.fromisoformat("2026-12-24T08:00Z")
    mac.call("AddReminder", title="x")
    assert mac.argv == [*head, "x", "", ""]


def test_a_note_is_text_in_html() -> None:
    """Its first line is the title; no markup comes out of it."""
    mac = Mac(b"Notes\n")
    told = mac.call("AddNote", title="<b>1 & 2", text="one\n\n<script>two")
    assert told == {"title": "<b>1 & 2", "folder": "Notes"}
    body = "<h1>&lt;b&gt;1 &amp; 2</h1><div>one</div><div><br></div><div>&lt;script&gt;two</div>"
    head = ["/usr/bin/osascript", "-l", "JavaScript", "-e", scripts.ADD_NOTE, "--"]
    assert mac.argv == [*head, body]


def row(title: str, start: str, end: str, **more: Any) -> list[Any]:
    """What the script says of an event."""
    known = {"place": None, "whole": False, "status": "confirmed", "rule": None, "out": None} | more
    return [title, title, known["place"], start, end, *list(known.values())[1:]]


ROWS = [
    row("Call", "2026-11-30T07:00:00.000Z", "2026-11-30T08:00:00.000Z", place="Room, 1;\n2"),
    row("Off", "2026-11-30T07:00:00.000Z", "2026-11-30T08:00:00.000Z", status="cancelled"),
    row("Free", "2026-11-30T05:00:00.000Z", "2026-12-01T05:00:00.000Z", whole=True),
    row(
        "Run\nEND:VEVENT",
        "2026-06-01T12:00:00.000Z",
        "2026-06-01T12:30:00.000Z",
        rule="FREQ=DAILY;INTERVAL=1;UNTIL=20261202T140000Z",
        out=["2026-12-01T13:00:00.000Z"],
    ),
]


def test_the_calendar_app_is_read_as_a_calendar_file(local: None) -> None:
    """Its series are told by their first event; a line's end in a title is no line's end."""
    mac = Mac(json.dumps(ROWS).encode())
    clock = ManualClock(datetime(2026, 11, 29, 17, 0, tzinfo=UTC))
    mac.tools = Toolbox(Permissions(apps=APPS), programs=mac.run, clock=clock)
    found = mac.call("ReadCalendar", source="Calendar", days=5)
    assert [f"{event['start']} {event['title']}" for event in found["events"]] == [
        "2026-11-29 08:00 Run END:VEVENT",
        "2026-11-30 Free",
        "2026-11-30 02:00 Call",
        "2026-11-30 08:00 Run END:VEVENT",
        "2026-12-02 08:00 Run END:VEVENT",
    ]
    assert found["events"][2]["place"] == "Room, 1; 2" and found["source"] == "Calendar"
    assert mac.argv[-3:] == ["--", "1795928400000", "1796360400000"]
    for odd in (b"", b"[1]", b"[[1,2,3,4,5,6,7,8,9]]", b"{", b"[" * 100_000, b"\xff"):
        mac.output = Output(0, odd, 0)
        with pytest.raises(ToolError, match="no list of events"):
            mac.call("ReadCalendar", source="Calendar")
    with pytest.raises(PermissionRefused, match="does not list 'calendar'"):
        Toolbox(Permissions(apps=("notes",)), programs=mac.run).call(
            "ReadCalendar", {"source": "Calendar"}
        )


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the scripts' JavaScript")
def test_the_calendars_script_asks_for_columns() -> None:
    """Of each calendar what lies near, and what repeats: one row an event."""
    stand_in = """
const asked = []
const found = (which) => new Proxy({}, { get: (_, name) => () => {
  asked.push(name)
  return which._and ? [`${name} 1`, `${name} 2`] : [`${name} 3`] } })
const Application = () => ({ calendars: () => [{ events: { whose: found } }] })
const rows = JSON.parse(run(["1795928400000", "1796360400000"]))
console.log(JSON.stringify([rows.map((row) => row[1]), rows[0].length, asked.length]))
"""
    command = ["node", "-e", scripts.READ_CALENDAR + stand_in]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == [["summary 1", "summary 2", "summary 3"], 9, 18]


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the scripts' JavaScript")
def test_the_scripts_do_what_they_say() -> None:
    """In JavaScript, with stand-ins for the apps: what is pushed where."""
    stand_in = """
const pushed = []
const list = (name) => ({ name: () => name, reminders: { push: (r) => pushed.push([name, r]) },
  notes: { push: (n) => pushed.push([name, n]) } })
const Application = (app) => ({ lists: { byName: list }, defaultList: () => list("default"),
  defaultAccount: { defaultFolder: () => list("folder") }, Reminder: (r) => r, Note: (n) => n })
const given = JSON.parse(process.argv[1])
console.log(JSON.stringify([run(given), pushed]))
"""
    cases = [
        (scripts.ADD_REMINDER, ["a", "", ""], ["default", [["default", {"name": "a"}]]]),
        (
            scripts.ADD_REMINDER,
            ["a", "Home", "2026-12-24T09:00:00+01:00"],
            ["Home", [["Home", {"name": "a", "dueDate": "2026-12-24T08:00:00.000Z"}]]],
        ),
        (scripts.ADD_NOTE, ["<h1>a</h1>"], ["folder", [["folder", {"body": "<h1>a</h1>"}]]]),
    ]
    for script, argv, wanted in cases:
        command = ["node", "-e", script + stand_in, json.dumps(argv)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert json.loads(told) == wanted


@pytest.mark.parametrize(
    ("name", "args", "why"),
    [
        ("RunShortcut", {"name": "Pay"}, "apps does not list 'shortcut:Pay'"),
        ("RunShortcut", {"name": "water plants"}, "does not list"),
        ("AddReminder", {"title": "a", "due": "tomorrow"}, "write it as 2026-12-24T09:00"),
        ("AddReminder", {"title": "a", "due": "9999-12-31T23:59:59-23:00"}, "is no time"),
        ("AddReminder", {"title": "a\0b"}, "no NUL"),
    ],
)
def test_what_is_refused(name: str, args: dict[str, Any], why: str) -> None:
    """Nothing was run then."""
    mac = Mac()
    with pytest.raises(ToolError, match=why):
        mac.call(name, **args)
    assert mac.argv == []


@pytest.mark.parametrize("name", ["RunShortcut", "AddReminder", "AddNote"])
def test_each_needs_its_own_word(name: str) -> None:
    """A program that is listed, osascript too, is no app."""
    args = {"RunShortcut": {"name": "a"}, "AddReminder": {"title": "a"}}
    args["AddNote"] = {"title": "a", "text": ""}
    for permissions in (Permissions(run=("osascript", "shortcuts")), Permissions(apps=("notes",))):
        if name == "AddNote" and permissions.apps:
            continue
        with pytest.raises(PermissionRefused):
            Toolbox(permissions).call(name, args[name])


def test_a_refusal_of_macos_says_what_a_person_can_do() -> None:
    """The consent for Apple events; other failures are what the program said."""
    told = b"execution error: Not authorized to send Apple events to Reminders. (-1743)\n"
    with pytest.raises(ToolError, match="allow it in System Settings > Privacy & Security > Aut"):
        Mac(told, 1).call("AddReminder", title="a")
    with pytest.raises(ToolError, match=r"Notes failed \(1\): x y$"):
        Mac(b"x\x1by\n", 1).call("AddNote", title="a", text="")


def test_none_runs_twice_and_each_asks() -> None:
    """Nobody takes a shortcut back; a reminder and a note a person can remove."""
    effects = {name: REGISTRY[name].effect for name in ("RunShortcut", "AddReminder", "AddNote")}
    assert effects == {"RunShortcut": "send", "AddReminder": "change", "AddNote": "change"}
    assert not any(REGISTRY[name].idempotent for name in effects)


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ({"apps": ("Reminders",)}, "is no app; write"),
        ({"apps": ("shortcut:",)}, "is no app; write"),
        ({"apps": ("shortcut:--help",)}, "is no app; write"),
        ({"apps": ("shortcut:a\nb",)}, "is no app; write"),
        ({"apps": ("notes",), "run": ("git",)}, "make two agents of it"),
    ],
)
def test_a_wrong_list_is_refused(listed: dict[str, Any], why: str) -> None:
    """A name that would be an option, and a program that would have the app's sandbox."""
    with pytest.raises(ValueError, match=why):
        Permissions(**listed)


def test_the_profile_names_the_app(tmp_path: Path) -> None:
    """Apple events go to what is listed alone, and without a list there are none."""
    plain = Profile(SandboxPolicy(), "/usr/bin/true").text
    assert "appleevent" not in plain and "lsd" not in plain and "shortcuts" not in plain
    notes = Profile(SandboxPolicy(apps=("notes",)), "/usr/bin/true").text
    assert '(allow appleevent-send (appleevent-destination "com.apple.Notes"))' in notes
    assert "reminders" not in notes and "shortcuts" not in notes
    shortcut = Profile(SandboxPolicy(apps=("shortcut:Water plants",)), "/usr/bin/true").text
    assert "appleevent" not in shortcut and '(global-name-prefix "com.apple.shortcuts")' in shortcut
    assert "Water" not in shortcut
    assert notes.count("(") == notes.count(")") and shortcut.count("(") == shortcut.count(")")
    assert not Rules(SandboxPolicy(apps=APPS)).allows("process-exec", "/usr/bin/osascript")


def test_only_its_program_may_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of osascript and shortcuts the one that the list needs."""
    for name in ("osascript", "shortcuts"):
        file = tmp_path / name
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        monkeypatch.setattr(permitted, name.upper(), str(file))
    for apps, programs in {
        ("notes",): {"osascript"},
        ("shortcut:a",): {"shortcuts"},
        APPS: {"osascript", "shortcuts"},
        (): set(),
    }.items():
        policy = sandbox_for(Permissions(apps=apps), Closed(), tmp_path)
        assert {Path(path).name for path in policy.run} == programs
        assert policy.apps == apps


@pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")
def test_by_hands_in_their_sandbox(
    start: Callable[..., Hand], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in gets the very arguments, and is all that they may start."""
    program = home / "osascript"
    shutil.copy("/bin/echo", program)
    monkeypatch.setattr(permitted, "OSASCRIPT", str(program))
    given = orders(home, apps=("notes", "calendar"))
    hand = start(given, [sys.executable, "-P", "-c", STAND_IN, str(program)])
    told = hand.value("AddNote", title="-n $(id)", text="x")["folder"]
    assert told.startswith("-l JavaScript -e function run(argv) {")
    assert told.endswith("-- <h1>-n $(id)</h1><div>x</div>")
    kind, why = hand.error("AddReminder", title="a", list=None, due=None)
    assert (kind, why) == (
        "refused",
        "[permissions] apps does not list 'reminders'; only notes, calendar",
    )
    kind, why = hand.error("AskCalendar", first="2026-11-29", days=1)
    assert kind == "tool" and why.startswith("Calendar gave what is no list of events")
    assert hand.error("RunCommand", program="osascript", args=["-e", "x"])[0] == "refused"


@pytest.mark.skipif(Path(scripts.OSASCRIPT).exists(), reason="this is a Mac")
def test_elsewhere_it_needs_a_mac() -> None:
    """The tool says so, and `agentd check` before it."""
    with pytest.raises(ToolError, match="needs a Mac: there is no /usr/bin/osascript here"):
        Toolbox(Permissions(apps=APPS)).call("AddNote", {"title": "a", "text": ""})


def test_an_agent_decides_for_them(tmp_path: Path) -> None:
    """With each field as it was answered; a person's yes comes first."""
    script = scripts.script_argv(scripts.ADD_REMINDER, "Water", "Home", "")
    run = run_agent(
        "task",
        NewEvent("note.changed", {"text": "The plants are dry."}),
        [
            {"tool": "add_reminder", "title": "Water", "list": "Home", "due": None},
            {"tool": "done", "result": "noted"},
        ],
        config={
            "subscribe": ["note.changed"],
            "params": {"instructions": "Note it.", "tools": ["AddReminder"]},
            "permissions": {"apps": ["reminders"]},
        },
        programs={shlex.join(script): "Home\n"},
        approve="allow",
    )
    assert run.results[0] == {"title": "Water", "list": "Home"}
