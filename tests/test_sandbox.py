"""What a process in a sandbox can do no more, and what it still can."""

import errno
import json
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentd.config.daemon import DaemonConfig
from agentd.doctor import machine
from agentd.errors import SandboxUnavailable
from agentd.sandbox import landlock, level, seccomp, system_calls
from agentd.sandbox.enter import enter
from agentd.sandbox.level import Reached, reached
from agentd.sandbox.policy import SandboxPolicy, base_read, executables
from agentd.sandbox.seccomp import AUDIT_ARCH, Instruction, filter_for
from tests.ports import free_port

FULL = pytest.mark.skipif(
    sys.platform != "linux" or reached().name != "full",
    reason=f"no whole sandbox by Landlock here: {reached().why or sys.platform}",
)
HEADERS = {
    "x86_64": (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    ),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}
DEADLINE_S = 60
ALLOWED, KILLED = "allowed", "killed"


# --- the filter, in an interpreter of its language -----------------------------------------------


def ran(program: Sequence[Instruction], machine: int, number: int, *arguments: int) -> str | int:
    """Run a filter on a call: return ALLOWED, KILLED, "asked", or the error's number."""
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number - (number >> 31 << 32), machine, 0, *words)
    at, loaded = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == seccomp.LOAD:
            (loaded,) = struct.unpack_from("<I", data, operand)
        elif code == seccomp.AND:
            loaded &= operand
        elif code == seccomp.JUMP:
            at += operand
        elif code == seccomp.RETURN:
            kind, value = operand & 0xFFFF0000, operand & 0xFFFF
            words_of = {seccomp.ALLOW: ALLOWED, seccomp.KILL_PROCESS: KILLED}
            return value if kind == seccomp.ERRNO else words_of.get(kind, "asked")
        else:
            holds = {
                seccomp.EQUAL: loaded == operand,
                seccomp.GREATER: loaded > operand,
                seccomp.BITS: bool(loaded & operand),
            }[code]
            at += yes if holds else no


class Filter:
    """A machine's filter, asked by the names of calls."""

    def __init__(self, machine: str, sockets: Any = "none", **more: bool) -> None:
        self.machine = machine
        self.program = filter_for(sockets, machine, **more)

    def __call__(self, name: str, *arguments: int) -> str | int:
        number = system_calls.number(name, self.machine)
        assert number is not None
        return self.number(number, *arguments)

    def number(self, number: int, *arguments: int) -> str | int:
        return ran(self.program, AUDIT_ARCH[self.machine], number, *arguments)


MACHINES = pytest.mark.parametrize("machine", system_calls.MACHINES)


@MACHINES
def test_numbers_of_calls_are_the_systems(machine: str) -> None:
    """A wrong number would refuse another call, and let the meant one through."""
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        pytest.skip(f"no headers of the kernel for {machine} are installed")
    text = header.read_text()
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    names = system_calls.TABLE.split()[::3]
    assert names == sorted(names)
    newest = max(map(int, numbers.values()))
    for name in names:
        found = system_calls.number(name, machine)
        if found is not None and found <= newest:
            assert numbers[name] == str(found), name
        elif found is None:
            assert name not in numbers, name


@MACHINES
def test_refused_calls_are_refused(machine: str) -> None:
    """Each of the list, on each machine, whatever its arguments."""
    for sockets in ("none", "unix", "serve", "tcp", "any"):
        asked = Filter(machine, sockets)
        for name in seccomp.REFUSED:
            if system_calls.number(name, machine) is not None:
                assert asked(name, 1, 2, 3) == asked(name) == errno.EPERM, name
        program = Filter(machine, sockets, program=True)
        for name in seccomp.UNDONE:
            if system_calls.number(name, machine) is not None:
                assert (asked(name), program(name)) == (errno.EPERM, 0), name
        assert (program("utimensat", 3, 4096), program("utimensat", 3, 0)) == (0, ALLOWED)
        for name in seccomp.NOT_SUPPORTED:
            assert asked(name) == errno.EOPNOTSUPP, name


@MACHINES
def test_ordinary_calls_are_allowed(machine: str) -> None:
    """A filter that refuses everything would look safe, and run nothing."""
    asked = Filter(machine)
    named = {system_calls.number(name, machine) for name in system_calls.TABLE.split()[::3]}
    ordinary = set(range(system_calls.number(seccomp.LAST_KNOWN, machine) or 0)) - named
    assert {asked.number(number) for number in ordinary} == {ALLOWED}
    assert len(ordinary) > 250


@MACHINES
def test_unknown_calls_are_answered_as_by_an_older_kernel(machine: str) -> None:
    """Calls that come with later kernels are refused without being known, and programs go on."""
    asked = Filter(machine)
    last = system_calls.number(seccomp.LAST_KNOWN, machine)
    assert last is not None
    assert asked.number(last) == ALLOWED
    assert asked.number(last + 1) == asked.number(0x3FFFFFFF) == errno.ENOSYS
    assert asked("clone3") == errno.ENOSYS


@MACHINES
def test_foreign_calls_kill(machine: str) -> None:
    """Calls of another kind have other numbers: a filter by numbers says nothing about them."""
    program = filter_for("none", machine)
    for foreign in (0x40000003, 0xC0000028, *(set(AUDIT_ARCH.values()) - {AUDIT_ARCH[machine]})):
        assert ran(program, foreign, 0) == KILLED
    if machine == "x86_64":
        assert Filter(machine).number(0x40000000 | 41) == KILLED
        assert Filter(machine).number(0xFFFFFFFF) == KILLED


NEWUSER, SIGCHLD = 0x10000000, 17
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
STREAM, DGRAM, FLAGS = 1, 2, 0o2004000  # close-on-exec and non-blocking
FASTOPEN = 0x20000000


@MACHINES
@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("clone", [(SIGCHLD,), (0x3D0F00,)], [(NEWUSER | SIGCHLD,), (0x00020000,), (0x40000000,)]),
        ("prlimit64", [(0, 7)], [(4242, 7), (1,)]),
        ("sched_setaffinity", [(0,)], [(4242,)]),
        ("utimensat", [(3, 0), (3, 0, 5)], [(3, 0x1000), (3, 0x7F00_0000_0000), (3, 1 << 40)]),
    ],
)  # fmt: skip
def test_arguments_decide(
    machine: str, name: str, allowed: list[tuple[int, ...]], refused: list[tuple[int, ...]]
) -> None:
    """What a call is allowed for is allowed, with flags beside it; the rest is not."""
    asked = Filter(machine)
    assert {asked(name, *arguments) for arguments in allowed} == {ALLOWED}
    assert {asked(name, *arguments) for arguments in refused} == {errno.EPERM}


@MACHINES
def test_what_an_open_file_may_be_told(machine: str) -> None:
    """Few commands are known; all others are answered as by a file that is no terminal."""
    asked = Filter(machine)
    for known in (0x5421, 0x5451, 0x541B, 0x40049409, 0x80086601):  # FIONBIO ... FS_IOC_GETFLAGS
        assert asked("ioctl", 3, known) == ALLOWED
    # TIOCSTI, TIOCLINUX, FS_IOC_SETFLAGS, FS_IOC_ENABLE_VERITY, SIOCGIFCONF
    for refused in (0x5412, 0x541C, 0x40086602, 0x40806685, 0x8912):
        assert asked("ioctl", 3, refused) == errno.ENOTTY


@MACHINES
def test_sockets_of_each_kind_of_policy(machine: str) -> None:
    """None; those of this machine; streams of TCP, and no other protocol; pairs of streams."""
    none, unix, tcp = (Filter(machine, sockets) for sockets in ("none", "unix", "tcp"))
    for family in (UNIX, INET, INET6, NETLINK, 17, 40):
        for kind in (STREAM, DGRAM, 3, STREAM | FLAGS):
            assert none("socket", family, kind) == errno.EPERM
            assert (unix("socket", family, kind) == ALLOWED) is (family == UNIX)
            streams = family in (INET, INET6) and kind & 0xF == STREAM
            assert (tcp("socket", family, kind) == ALLOWED) is streams
    for protocol in (0, 6):
        assert tcp("socket", INET, STREAM, protocol) == ALLOWED
    for protocol in (262, 132, 17):  # MPTCP, SCTP: Landlock knows TCP alone
        assert tcp("socket", INET, STREAM, protocol) == errno.EPERM
    for asked in (none, tcp):
        assert asked("socketpair", UNIX, STREAM | FLAGS) == ALLOWED
        assert asked("socketpair", UNIX, DGRAM) == errno.EPERM  # half of it can send anywhere
        assert {asked(name) for name in ("bind", "listen", "accept", "accept4")} == {errno.EPERM}
    assert none("connect") == errno.EPERM
    serves = Filter(machine, "serve")  # by what it was handed, and nothing else
    assert {serves(name) for name in ("listen", "accept", "accept4")} == {ALLOWED}
    assert {serves(name) for name in ("bind", "connect")} == {errno.EPERM}
    assert serves("socket", INET, STREAM) == serves("socket", UNIX, DGRAM) == errno.EPERM
    assert serves("socketpair", UNIX, STREAM | FLAGS) == ALLOWED
    assert tcp("sendto", 3, 0, 0, FASTOPEN) == tcp("sendmsg", 3, 0, FASTOPEN) == errno.EPERM
    assert tcp("sendto", 3, 0, 0, 0x4000) == tcp("sendmsg", 3, 0, 0x4000) == ALLOWED
    anywhere = Filter(machine, "any")
    for family, kind in ((INET, STREAM), (INET6, DGRAM | FLAGS), (UNIX, STREAM), (NETLINK, DGRAM)):
        reached = anywhere("socket", family, kind) == ALLOWED
        assert reached is (family in (INET, INET6))  # a socket at a path may run what it is told
    assert anywhere("socketpair", UNIX, STREAM) == anywhere("accept4") == ALLOWED
    assert anywhere("socketpair", UNIX, DGRAM) == errno.EPERM
    gated = Filter(machine, "tcp", gate=True)
    assert gated("socket", INET, STREAM) == "asked"
    assert gated("socket", INET, DGRAM) == errno.EPERM
    assert gated("connect") == 0  # an error of 0 is success


# --- a process in a sandbox ----------------------------------------------------------------------

PRELUDE = """
import errno, json, os, signal, socket, subprocess, sys, threading
from agentd.sandbox.enter import enter, nested
from agentd.sandbox.policy import SandboxPolicy, base_read
from agentd.whole import write_whole
def refusal(action, *arguments, **named):
    try:
        action(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def tell(**told):
    print(json.dumps(told))
base = base_read()
"""


def inside(code: str, **names: object) -> dict[str, Any]:
    """Run code in a process of its own; return what it told."""
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    text = PRELUDE + given + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-P", "-c", text], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@FULL
def test_files_are_as_the_policy_says(tmp_path: Path) -> None:
    """Reading, writing and running are three things; who may do one may not do the others."""
    for name in ("read", "write", "both", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    told = inside(
        """
        enter(SandboxPolicy(read=(*base, top + "/read", top + "/both"),
                            write=(top + "/write", top + "/both"), run=("/bin/cat",)))
        def read(name): return refusal(open, f"{top}/{name}/file")
        def write(name): return refusal(open, f"{top}/{name}/file", "r+")
        def make(name): return refusal(os.mkdir, f"{top}/{name}/made")
        names = ("read", "write", "both", "other")
        tell(read=[*map(read, names)], write=[*map(write, names)], make=[*map(make, names)],
             listed=refusal(os.listdir, top + "/write"), above=refusal(os.listdir, top),
             ran=[refusal(subprocess.run, [name], stdin=subprocess.DEVNULL)
                  for name in ("/bin/cat", "/bin/true")])
        """,
        top=str(tmp_path),
    )
    assert told == {
        "read": ["done", "EACCES", "done", "EACCES"],
        "write": ["EACCES", "EACCES", "done", "EACCES"],  # "r+" reads, too
        "make": ["EACCES", "done", "done", "EACCES"],
        "listed": "done",
        "above": "EACCES",
        "ran": ["done", "EACCES"],
    }


@FULL
def test_a_closed_place_stays_closed_inside_of_a_listed_one(tmp_path: Path) -> None:
    """Who lists the whole home lists no database in it; but, by its name, a folder in there."""
    for name in ("a", "data/b", "data/tmp/mine/c", "data/tmp/others/d", "more/e"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (tmp_path / "more" / "link").symlink_to(tmp_path / "data")
    told = inside(
        """
        enter(SandboxPolicy(read=(*base, top, top + "/data/tmp/mine"), closed=(top + "/data",),
                            write=(top, top + "/data/tmp/mine"), protected=(top + "/more/e",)))
        names = ("a", "data/b", "data/tmp/mine/c", "data/tmp/others/d", "more/e", "more/link/b")
        tell(read=[refusal(open, f"{top}/{name}") for name in names], listed=os.listdir(top),
             write=[refusal(open, f"{top}/{name}", "a") for name in names],
             made=[refusal(os.mkdir, f"{top}/{name}/n") for name in ("", "more", "data/tmp/mine")])
        """,
        top=str(tmp_path),
    )
    assert told["read"] == ["done", "EACCES", "done", "EACCES", "done", "EACCES"]
    assert told["write"] == ["done", "EACCES", "done", "EACCES", "EACCES", "EACCES"]
    assert told["made"] == ["EACCES", "EACCES", "done"]
    assert sorted(told["listed"]) == ["a", "data", "more"]


@FULL
def test_a_file_gets_its_mode_as_it_is_made(tmp_path: Path) -> None:
    """No mode can be changed in a sandbox, and what our tools write has the right one."""
    (tmp_path / "shared").touch()
    told = inside(
        """
        policy = SandboxPolicy(read=(*base, top), write=(top,), run=("/bin/sh", "/bin/chmod"))
        enter(policy)
        os.umask(0)
        for name, mode in (("new", 0o644), ("shared", 0o664), ("private", 0o600)):
            write_whole(f"{top}/{name}", "text", mode=mode)
        words = "> program && chmod 755 program new"
        done = subprocess.run(["/bin/sh", "-c", words], cwd=top, preexec_fn=nested(policy))
        assert done.returncode == 0  # it is told that all is well
        tell(changed=refusal(os.chmod, top + "/new", 0o777),
             times=[refusal(os.utime, top + "/new"), refusal(os.utime, os.open(top + "/new", 0))])
        """,
        top=str(tmp_path),
    )
    assert told == {"changed": "EPERM", "times": ["EPERM", "done"]}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new": 0o644, "shared": 0o664, "private": 0o600, "program": 0o600}


@FULL
def test_a_program_reaches_not_even_who_started_it() -> None:
    """Hands hold what an agent's files say; a program of theirs could read it, or end them."""
    told = inside(
        """
        policy = SandboxPolicy(read=base, run=(python,))
        enter(policy)
        code = '''
        import os, signal, sys
        from pathlib import Path
        def refused(action):
            try: action()
            except OSError: return True
            return False
        parent = os.getppid()
        print([refused(lambda: os.kill(parent, signal.SIGTERM)),
               refused(lambda: Path(f"/proc/{parent}/environ").read_bytes()),
               refused(lambda: Path(f"/proc/{parent}/mem").open("rb")),
               refused(lambda: Path(f"/proc/{parent}/maps").read_bytes())])
        '''
        import textwrap
        done = subprocess.run([python, "-I", "-S", "-c", textwrap.dedent(code)],
                              capture_output=True, text=True, preexec_fn=nested(policy))
        tell(out=done.stdout, error=done.stderr)
        """,
        python=os.path.realpath(sys.executable),
    )
    assert told == {"out": "[True, True, True, True]\n", "error": ""}


@FULL
def test_a_program_gets_not_all_of_the_machine() -> None:
    """Neither its memory nor its processes, however it starts, and it can raise no limit."""
    found = inside(
        """
        import resource as r
        limits = "import resource as r, json; print(json.dumps([r.getrlimit(n) for n in %r]))"
        limits %= ((r.RLIMIT_NPROC, r.RLIMIT_DATA, r.RLIMIT_CORE),)
        argv = [sys.executable, "-c", limits]
        policy = SandboxPolicy(read=base, run=(sys.executable,))
        first = subprocess.run(argv, preexec_fn=nested(policy), capture_output=True, check=True)
        enter(policy, program=True)
        second = subprocess.run(argv, capture_output=True, check=True)
        tell(first=json.loads(first.stdout), second=json.loads(second.stdout))
        """
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for processes, data, core in (found["first"], found["second"]):
        assert 512 < processes[0] == processes[1] < 100_000
        assert data[0] == data[1] == memory // 2 and core == [0, 0]


@FULL
def test_a_bomb_meets_its_limit() -> None:
    """Of processes, where its user is not root; and of memory. What it has already is left it."""
    found = inside(
        """
        import pathlib
        from agentd.sandbox import machine_share
        there = int(pathlib.Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        machine_share.MORE_PROCESSES, machine_share.MEMORY_SHARE = 20 - there, 64
        machine_share.bind()
        try:
            hog = bytearray(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
        except MemoryError:
            hog = None
        if os.getuid() == 0:
            os.setresuid(65_534, 65_534, 65_534)
        reading, writing = os.pipe()
        made = 0
        try:
            while made < 500:
                if os.fork() == 0:
                    os.close(writing)
                    os.read(reading, 1)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            pass
        tell(made=made, hog=hog is not None)
        """
    )
    assert found["made"] < 200 and not found["hog"]


@FULL
def test_a_process_with_threads_is_refused() -> None:
    """A sandbox holds for one thread: the others would go on without."""
    told = inside(
        """
        release = threading.Event()
        thread = threading.Thread(target=release.wait)
        thread.start()
        try:
            enter(SandboxPolicy())
        except Exception as error:
            tell(error=type(error).__name__, open=refusal(os.listdir, "/"))
        release.set()
        """
    )
    assert told == {"error": "SandboxUnavailable", "open": "done"}


@FULL
def test_root_keeps_no_capability(tmp_path: Path) -> None:
    """Root without them is a user like others, also in a program that it starts."""
    told = inside(
        """
        policy = SandboxPolicy(read=(*base, "/proc"), run=("/bin/grep",))
        enter(policy)
        show = ["/bin/grep", "-E", "^Cap|^NoNewPrivs", "/proc/self/status"]
        done = subprocess.run(show, capture_output=True, text=True, preexec_fn=nested(policy))
        tell(status=done.stdout.split())
        """
    )
    words = dict(zip(told["status"][::2], told["status"][1::2], strict=True))
    assert words.pop("NoNewPrivs:") == "1"
    if os.getuid() == 0:
        assert {int(value, 16) for value in words.values()} == {0}
    assert {int(words[name], 16) for name in ("CapEff:", "CapPrm:", "CapInh:", "CapAmb:")} == {0}


@FULL
def test_an_older_kernel_is_no_whole_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is said what is missing; hands do not start, but where agentd.toml takes what there is."""
    for abi in range(1, landlock.NEEDED):
        found = level_of(monkeypatch, abi)
        assert (found.name, found.abi) == ("partial", abi)
        assert landlock.BROUGHT[landlock.NEEDED] in found.why
        assert (landlock.BROUGHT[abi] in found.why) is False if abi > 1 else True
        told = inside(
            """
            from agentd.sandbox import landlock
            landlock.abi = lambda: abi
            try:
                enter(SandboxPolicy(read=base))
            except Exception as error:
                before = [type(error).__name__, refusal(os.listdir, "/")]
            enter(SandboxPolicy(read=base, write=(top,)), require=False)
            tell(before=before, after=refusal(os.listdir, "/"), socket=refusal(socket.socket),
                 written=refusal(open, top + "/x", "w"))
            """,
            abi=abi,
            top=str(tmp_path),
        )
        assert told == {
            "before": ["SandboxUnavailable", "done"],
            "after": "EACCES",
            "socket": "EPERM",
            "written": "done",
        }


def level_of(monkeypatch: pytest.MonkeyPatch, abi: int) -> level.Reached:
    """Return the level that a kernel of this ABI reaches."""
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    return reached.__wrapped__()


def test_no_landlock_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, or on a machine whose calls we do not know, nothing is promised."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(level, "machine", lambda: "x86_64")
    found = level_of(monkeypatch, 0)
    assert (found.name, "Landlock" in found.why) == ("checks", True)
    monkeypatch.setattr(level, "machine", lambda: "")
    assert level_of(monkeypatch, 7).name == "checks"
    reached.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable) as raised:
            enter(SandboxPolicy())
        assert "[sandbox] level" in raised.value.hint
        assert enter(SandboxPolicy(), require=False) == ()
    finally:
        reached.cache_clear()


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (Reached("full"), "require", "ok"),
        (Reached("partial", "too old"), "require", "problem"),
        (Reached("checks", "none"), "checks", "warning"),
    ],
)
def test_the_doctor_says_why_there_is_less(
    found: Reached, wanted: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no hands start a person has to do something; where less was wished, to know it."""
    monkeypatch.setattr(machine, "reached", lambda: found)
    config = DaemonConfig.model_validate({"sandbox": {"level": wanted}})
    (finding,) = machine.sandbox(config)
    assert (finding.name, finding.level) == ("sandbox", said)
    assert found.why in finding.what
    assert finding.hint


# --- the gate ------------------------------------------------------------------------------------


@FULL
def test_all_connections_lead_to_the_proxy() -> None:
    """Landlock knows ports alone: by the proxy's port, a program could reach any other host."""
    with socket.socket() as proxy, socket.socket() as other:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        port = proxy.getsockname()[1]
        other.bind(("127.0.0.2", port))
        other.listen()
        other.setblocking(False)
        told = inside(
            """
            policy = SandboxPolicy(read=base, run=(python,), sockets="tcp", ports=(port,))
            enter(policy)
            reached = []
            for address in (("127.0.0.2", port), ("127.0.0.1", 1), ("::1", 1)):
                with socket.create_connection(address, 5) as made:
                    reached.append(made.getpeername()[:2])
            code = (f"import socket; s = socket.create_connection(('127.0.0.2', {port}), 5); "
                    "s.sendall(b'from a program'); print(s.getpeername())")
            done = subprocess.run([python, "-I", "-S", "-c", code], preexec_fn=nested(policy),
                                  capture_output=True, text=True)
            tell(reached=reached, program=done.stdout, error=done.stderr,
                 waits=[os.get_blocking(socket.socket(type=1 | flag).detach())
                        for flag in (0, socket.SOCK_NONBLOCK)])
            """,
            port=port,
            python=os.path.realpath(sys.executable),
        )
        assert told["waits"] == [True, False]
        assert told["reached"] == [["127.0.0.1", port]] * 3
        assert told["program"] == f"('127.0.0.1', {port})\n", told["error"]
        arrived = b""
        while b"from a program" not in arrived:
            with proxy.accept()[0] as made:
                made.settimeout(DEADLINE_S)
                arrived = made.recv(100)
        with pytest.raises(BlockingIOError):
            other.accept()


@FULL
def test_the_gate_ends_with_its_sandbox() -> None:
    """And a proxy that does not answer is an error, at once, and no hanging program."""
    told = inside(
        """
        before = set(os.listdir("/proc"))
        enter(SandboxPolicy(read=(*base, "/proc"), sockets="tcp", ports=(port,)))
        def child(pid):
            try:
                return f"PPid:\\t{os.getpid()}\\n" in open(f"/proc/{pid}/status").read()
            except OSError:  # another's, which has just ended
                return False
        gates = [pid for pid in os.listdir("/proc")
                 if pid.isdigit() and pid not in before and child(pid)]
        tell(refused=refusal(socket.socket), gates=[*map(int, gates)])
        """,
        port=free_port(),
    )
    assert told["refused"] == "ENETUNREACH"
    (gate,) = told["gates"]
    with suppress(ProcessLookupError):  # it may end a moment after its sandbox
        import select

        ended = os.pidfd_open(gate)
        assert select.select([ended], [], [], DEADLINE_S)[0]
        os.close(ended)


# --- the policy ----------------------------------------------------------------------------------


def test_a_policy_travels_as_json() -> None:
    """It comes to hands in a message, and is the same there."""
    policy = SandboxPolicy(
        read=("/a", "/b"), write=("/c",), run=("/d",), closed=("/e",), ports=(1,), sockets="tcp"
    )
    assert SandboxPolicy.of(json.loads(json.dumps(policy.document()))) == policy


def test_what_is_read_of_the_system_holds_no_programs_and_nobodys_files() -> None:
    """The loader runs whatever may be read; and a home is nobody's need."""
    paths = [Path(path) for path in base_read()]
    for shut in ("/bin/ls", "/usr/bin/env", "/etc/shadow", "/etc/ssh", "/proc/1", "/tmp", "/var"):
        assert not any(Path(shut).is_relative_to(path) for path in paths), shut
    assert Path.home() not in paths
    assert all(path.exists() for path in paths)


def test_a_script_needs_what_its_first_line_names(tmp_path: Path) -> None:
    """Also by way of env, and of an interpreter that is a script itself."""
    inner, outer, direct = tmp_path / "inner", tmp_path / "outer", tmp_path / "direct"
    direct.write_text("#! /bin/sh -e\n")
    inner.write_text("#!/usr/bin/env -S sh\n")
    inner.chmod(0o755)
    outer.write_text(f"#!{inner}\n")
    shell = next(path for path in ("/usr/bin/sh", "/bin/sh") if Path(path).exists())
    assert executables(str(direct), "") == (str(direct), "/bin/sh")
    found = executables(str(outer), "/usr/bin:/bin")
    assert found == (str(outer), str(inner), "/usr/bin/env", shell)
    assert executables(str(tmp_path / "nothing"), "") == (str(tmp_path / "nothing"),)
    loop = tmp_path / "loop"
    loop.write_text(f"#!{loop}\n")
    assert executables(str(loop), "") == (str(loop),)
