"""The profile for macOS: its rules, and the traps that others fell into, as text."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import SandboxUnavailable
from agentd.sandbox import level, seatbelt
from agentd.sandbox.policy import SandboxPolicy
from agentd.sandbox.seatbelt import Profile, wrapped

RULE = re.compile(r"^\((allow|deny) ([^(]+) (\(.*\))\)$", re.MULTILINE)


class Rules:
    """A profile, asked as macOS would: the last rule that matches holds."""

    def __init__(self, policy: SandboxPolicy, program: str = "/usr/bin/true") -> None:
        self.profile = Profile(policy, program)
        self.text = self.profile.text
        paths = {name: path for path, name in self.profile.names.items()}
        self.rules = []
        for action, operations, form in RULE.findall(self.text):
            named = re.findall(r'\((subpath|literal) \(param "(\w+)"\)\)', form)
            folder = "vnode-type DIRECTORY" in form
            self.rules += [
                (action, operations.split(), kind, paths[name], folder) for kind, name in named
            ]

    def allows(self, operation: str, path: Path | str, *, folder: bool = False) -> bool:
        verdict = False
        for action, operations, kind, named, only_folders in self.rules:
            matches = Path(path) == Path(named) or (
                kind == "subpath" and Path(path).is_relative_to(named)
            )
            meant = any(
                operation == each or (each[-1] == "*" and operation.startswith(each[:-1]))
                for each in operations
            )
            if matches and meant and (folder or not only_folders):
                verdict = action == "allow"
        return verdict


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("read", "write", "data/tmp/mine", "data/tmp/others", "else"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path.resolve()


def rules_of(home: Path) -> Rules:
    return Rules(
        SandboxPolicy(
            read=(str(home / "read"), str(home / "data/tmp/mine")),
            write=(str(home / "write"), str(home / "data/tmp/mine")),
            closed=(str(home / "data"),),
        )
    )


def test_everything_is_denied_that_is_not_listed(home: Path) -> None:
    """A file, a program, a socket, a name to look up: nothing is open by default."""
    rules = rules_of(home)
    assert rules.text.startswith("(version 1)\n(deny default)\n")
    assert rules.allows("file-read-data", home / "read" / "a")
    assert not rules.allows("file-read-data", home / "else" / "a")
    assert not rules.allows("file-write-data", home / "read" / "a")
    assert rules.allows("file-write-create", home / "write" / "a")
    assert not rules.allows("file-read-data", home / "write" / "a")
    assert rules.allows("file-read-data", home / "write", folder=True)  # its names
    allowed = "".join(line for line in rules.text.splitlines() if line.startswith("(allow"))
    for word in ("network", "mach-register", "iokit", "appleevent", "job-creation", "system-s"):
        assert word not in allowed
    names = re.findall(r'global-name "([^"]+)"', rules.text)
    assert names == ["com.apple.system.opendirectoryd.libinfo"]  # users' names; not mDNSResponder
    # Of another process's arguments and environment (kern.procargs2) nothing is told.
    assert not re.findall(r"kern\.proc|\(allow sysctl-read\)|kern\.\"", rules.text)


def test_modes_and_owners_cannot_be_changed(home: Path) -> None:
    """What may be written may not be lent to others: no mode, owner, flag or attribute."""
    for kind in ("mode", "owner", "flags", "setugid", "xattr", "acl", "mount"):
        assert not rules_of(home).allows(f"file-write-{kind}", home / "write" / "a")
    for kind in ("create", "data", "unlink", "times"):
        assert rules_of(home).allows(f"file-write-{kind}", home / "write" / "a")


def test_no_rule_is_without_a_path(home: Path) -> None:
    """A rule whose list of paths came out empty would hold for all paths."""
    for policy in (SandboxPolicy(), SandboxPolicy(read=(str(home),))):
        text = Rules(policy).text
        assert "()" not in text
        for line in text.splitlines():
            if "file-" in line or "process-exec" in line:
                assert "(param" in line or "(literal" in line, line


def test_a_closed_place_stays_closed(home: Path) -> None:
    """Also inside of a listed folder; and what is listed in there by its name is open."""
    policy = SandboxPolicy(
        read=(str(home), str(home / "data/tmp/mine")),
        write=(str(home),),
        closed=(str(home / "data"),),
    )
    rules = Rules(policy)
    assert rules.allows("file-read-data", home / "else" / "a")
    for operation in ("file-read-data", "file-read-metadata", "file-write-data", "process-exec"):
        assert not rules.allows(operation, home / "data" / "agentd.db")
    assert rules.allows("file-read-data", home / "data/tmp/mine/a")
    assert not rules.allows("file-read-data", home / "data/tmp/others/a")
    assert not rules.allows("file-write-create", home / "data/tmp/mine/a")


def test_a_protected_place_is_read_and_not_written(home: Path) -> None:
    """As agentd's own configuration, which says what agents may do."""
    listed = (str(home), str(home / "data" / "tmp" / "mine"))
    policy = SandboxPolicy(read=listed, write=listed, protected=(str(home / "data"),))
    rules = Rules(policy)
    assert rules.allows("file-read-data", home / "data" / "a")
    assert not rules.allows("file-write-data", home / "data" / "a")
    assert not rules.allows("file-write-unlink", home / "data")
    assert rules.allows("file-write-data", home / "data" / "tmp" / "mine" / "a")


def test_a_closed_place_cannot_be_moved_to_where_it_is_open(home: Path) -> None:
    """Rules go by paths: renamed, or with a folder above it, its contents would be another's."""
    rules = Rules(SandboxPolicy(write=(str(home),), closed=(str(home / "data" / "tmp"),)))
    for path in (home / "data" / "tmp", home / "data", home, home.parent):
        assert not rules.allows("file-write-unlink", path), path
    assert rules.allows("file-write-unlink", home / "else")


def test_links_are_followed_in_rules_and_seen_on_the_way(home: Path) -> None:
    """macOS compares paths without links (/private), and looks at each step when it resolves one.

    uv's Python lies behind a link without its last number, which no resolved path names.
    """
    python = home / "python" / "cpython-3.13.5"
    (python / "bin").mkdir(parents=True)
    (python / "bin" / "python3.13").touch()
    (home / "python" / "cpython-3.13").symlink_to("cpython-3.13.5")
    (home / "venv").mkdir()
    (home / "venv" / "python").symlink_to(home / "python" / "cpython-3.13" / "bin" / "python3.13")
    (home / "linked").symlink_to(home / "read")
    rules = Rules(SandboxPolicy(read=(str(home / "linked"),)), str(home / "venv" / "python"))
    assert rules.allows("file-read-data", home / "read" / "a")
    assert not rules.allows("file-read-data", home / "linked" / "a")
    on_the_way = [
        home,
        home / "linked",
        home / "venv",
        home / "venv" / "python",
        *home.parents[:-1],
    ]
    on_the_way += [home / "python", home / "python" / "cpython-3.13", python, python / "bin"]
    for path in on_the_way:
        assert rules.allows("file-read-metadata", path), path
    assert not rules.allows("file-read-data", home)
    assert rules.allows("process-exec", python / "bin" / "python3.13")


def test_links_in_a_circle_end(home: Path) -> None:
    """A person's folders may hold any links; the daemon does not hang over them."""
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("a")
    assert Rules(SandboxPolicy(read=(str(home / "a" / "c"),))).allows("file-read-metadata", home)


def test_the_folder_of_a_listed_file_is_opened_and_no_more(home: Path) -> None:
    """On Linux a folder is passed through without being read; here a tool has to open it."""
    file = home / "else" / "a.txt"
    file.touch()
    rules = Rules(SandboxPolicy(read=(str(file),)))
    assert rules.allows("file-read-data", file)
    assert rules.allows("file-read-data", file.parent, folder=True)
    assert not rules.allows("file-read-data", home / "else" / "b.txt")
    assert not rules.allows("file-read-data", home, folder=True)


def test_a_frameworks_python_may_start_itself_again(home: Path) -> None:
    """Its python3 only starts a program inside of the framework."""
    app = home / "Python.framework/Versions/3.13/Resources/Python.app/Contents/MacOS/Python"
    app.parent.mkdir(parents=True)
    app.touch()
    stub = home / "Python.framework/Versions/3.13/bin/python3.13"
    stub.parent.mkdir()
    stub.touch()
    rules = Rules(SandboxPolicy(), str(stub))
    assert rules.allows("process-exec", app)
    assert rules.allows("process-exec", stub)
    assert not rules.allows("process-exec", home / "else")


@pytest.mark.parametrize("character", list('"()[]{}\\\n\r\0'))
def test_a_folders_name_becomes_no_rule(character: str, home: Path) -> None:
    """Names are parameters, never text of the profile; odd ones are refused all the same."""
    path = f"{home}/a{character}b"
    with pytest.raises(SandboxUnavailable, match="cannot be told") as raised:
        Rules(SandboxPolicy(closed=(path,)))
    assert "rename" in raised.value.hint
    assert str(home) not in rules_of(home).text
    with pytest.raises(SandboxUnavailable):
        Rules(SandboxPolicy(read=("relative",), closed=("relative",)), "relative/program")


def test_the_network_is_a_port_of_this_machine(home: Path) -> None:
    """Only the proxy's; names are resolved by it, and a mapped address is another one."""
    text = Rules(SandboxPolicy(sockets="tcp", ports=(4242, 4343))).text
    found = [line for line in text.splitlines() if "network" in line]
    assert found == ['(allow network-outbound (remote ip "localhost:4242"))']
    assert "network" not in Rules(SandboxPolicy(sockets="none", ports=(4242,))).text
    text = Rules(SandboxPolicy(sockets="serve")).text
    assert text.count("network") == 1 and 'network-inbound (local ip "localhost:*")' in text
    text = Rules(SandboxPolicy(sockets="any")).text
    assert "network*" not in text and '(remote ip "*:*")' in text  # and no socket at a path
    unix = Rules(SandboxPolicy(sockets="unix", read=(str(home / "read"),)))
    assert unix.allows("network-outbound", home / "read" / "socket")
    assert not unix.allows("network-outbound", home / "else" / "socket")
    assert not unix.allows("network-outbound", "/private/var/run/mDNSResponder")


def test_a_command_line_is_wrapped_on_macos_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile and its parameters go before the command; elsewhere there is nothing to wrap."""
    policy = SandboxPolicy(read=(str(home / "read"),))
    monkeypatch.setattr(sys, "platform", "linux")
    assert wrapped(["/usr/bin/true", "a"], policy) == ["/usr/bin/true", "a"]
    monkeypatch.setattr(sys, "platform", "darwin")
    argv = wrapped(["/usr/bin/true", "a"], policy)
    at = argv.index("-p")
    assert (argv[0], argv[at + 2 :]) == ("/usr/bin/sandbox-exec", ["/usr/bin/true", "a"])
    names = dict(word.split("=", 1) for word in argv[2:at:2])
    assert set(argv[1:at:2]) == {"-D"}
    assert str(home / "read") in names.values()
    assert set(re.findall(r'param "(\w+)"', argv[at + 1])) == set(names)


@pytest.mark.parametrize("code", [0, 71])
def test_no_sandbox_in_a_sandbox(
    code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """macOS nests none: inside of another one that is said, and nothing runs openly."""
    fake = tmp_path / "sandbox-exec"
    fake.write_text(f"#!/bin/sh\necho sandbox_apply: Operation not permitted >&2\nexit {code}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(seatbelt, "SANDBOX_EXEC", str(fake))
    monkeypatch.setattr(sys, "platform", "darwin")
    found = level.reached.__wrapped__()
    assert (found.name, "another sandbox" in found.why) == (
        ("checks", True) if code else ("full", False)
    )
    monkeypatch.setattr(seatbelt, "SANDBOX_EXEC", str(tmp_path / "nothing"))
    assert level.reached.__wrapped__().name == "checks"


@pytest.mark.skipif(sys.platform != "darwin", reason="only macOS can read a profile")
def test_macos_reads_the_profile(home: Path) -> None:
    """It knows all words of it; a program starts, reads what is listed and nothing else."""
    (home / "read" / "a").write_text("listed")
    (home / "else" / "a").write_text("secret")
    cat = shutil.which("cat") or "/bin/cat"
    policy = SandboxPolicy(read=("/usr/lib", "/System/Library", str(home / "read")))
    for name, out in (("read", "listed"), ("else", "")):
        argv = wrapped([cat, str(home / name / "a")], policy)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.stdout == out, done.stderr
