"""Seatbelt, the sandbox of macOS: command lines wrapped in `sandbox-exec` with a profile.

A profile is a program of rules of which the last one that matches holds. Apple documents no part of
it; this one keeps to words that its own profiles, Chromium's and Codex's use. Paths come as
parameters, never as text of the profile. They are compared without links: `/tmp` is `/private/tmp`.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from agentd.errors import SandboxUnavailable
from agentd.sandbox.policy import SandboxPolicy, on_the_way

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
SYSTEM = "/usr/lib/libSystem.B.dylib"
SPAWN_HINT = 'workers = "spawn" under [supervisor] of agentd.toml starts each in its sandbox'
TRIAL_S = 20.0
# Characters that end a string of a profile, or begin a rule: were a parameter ever taken for text.
UNFIT = frozenset('"()[]{}\\\n\r\0')
# A framework's `python3` only starts this one (Mac/Tools/pythonw.c of CPython).
RELAUNCHED = "Resources/Python.app/Contents/MacOS/Python"
HEAD = """\
(version 1)
(deny default)
(allow process-fork)
(allow process-info* (target self))
(allow signal (target same-sandbox))
(allow sysctl-read
  (sysctl-name-prefix "hw.")
  (sysctl-name "kern.argmax" "kern.hostname" "kern.maxfilesperproc" "kern.osproductversion"
    "kern.osrelease" "kern.ostype" "kern.osvariant_status" "kern.osversion" "kern.usrstack64"
    "kern.version" "sysctl.proc_cputype" "vm.loadavg"))
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
(allow file-read* (literal "/"))
(allow file-write-data (literal "/dev/null"))
"""
NOTICES = '(allow mach-lookup (global-name "com.apple.FSEvents"))\n'
READING = "file-read* file-map-executable"
WRITING = "file-read-metadata file-write-create file-write-data file-write-unlink file-write-times"
SUBPATH, LITERAL = '(subpath (param "{}"))', '(literal (param "{}"))'
NETWORK = """\
(allow network-outbound (remote ip "*:*") (literal "/private/var/run/mDNSResponder"))
(allow network-bind network-inbound (local ip "*:*"))
"""
SERVING = '(allow network-inbound (local ip "localhost:*"))\n'
# What Codex's profiles let through for an app that is told what to do, as Apple's own do.
APPLE_EVENTS = """\
(allow mach-lookup (global-name "com.apple.coreservices.appleevents")
  (global-name "com.apple.coreservices.launchservicesd") (global-name "com.apple.lsd.mapdb"))
(allow appleevent-send (appleevent-destination "{}"))
(allow file-read* (subpath "/System/Applications/{}.app"))
"""
APPS = {  # by [permissions] apps: the app's bundle, and its folder
    "calendar": ("com.apple.iCal", "Calendar"),
    "reminders": ("com.apple.reminders", "Reminders"),
    "notes": ("com.apple.Notes", "Notes"),
}
# A shortcut is run by services of macOS, outside of this sandbox.
RUN_SHORTCUTS = """\
(allow mach-lookup (global-name-prefix "com.apple.shortcuts")
  (global-name-prefix "com.apple.siriactions") (global-name-prefix "com.apple.VoiceShortcuts"))
"""
LISTING = f"(require-all {SUBPATH} (vnode-type DIRECTORY))"


def unavailable() -> str:
    """Return why no process can be put into a sandbox here; "" where it can."""
    import subprocess  # on Linux nobody needs it here, and hands start without it

    trial = [SANDBOX_EXEC, "-p", "(version 1)(allow default)", "/usr/bin/true"]
    try:
        done = subprocess.run(trial, capture_output=True, timeout=TRIAL_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{SANDBOX_EXEC} does not run: {error}"
    if done.returncode == 0:
        return ""
    return (
        "this runs inside of another sandbox, as of Codex or Claude Code, and macOS nests none: "
        "start it in a terminal of its own"
    )


def wrapped(argv: Sequence[str], policy: SandboxPolicy) -> list[str]:
    """Return the command line that runs `argv` with this policy; all that it starts has it, too.

    Other than on Linux `argv[0]`, too, may be executed, and a process may leave its group. On other
    systems `argv` is returned.

    Raises:
        SandboxUnavailable: a path of the policy cannot be told.
    """
    if sys.platform != "darwin":
        return list(argv)
    profile = Profile(policy, argv[0])
    told = [word for path, name in profile.names.items() for word in ("-D", f"{name}={path}")]
    return [SANDBOX_EXEC, *told, "-p", profile.text, *argv]


def confine(policy: SandboxPolicy) -> None:
    """Put this process into a sandbox with this policy; all that it starts has it, too.

    For one that was forked: no program is started that `wrapped` could wrap. By the call that
    Chromium's processes (sandbox/mac/seatbelt.cc) and, in a forked child, Nix's builds make.

    Raises:
        SandboxUnavailable: macOS refuses, or a path of the policy cannot be told.
    """
    profile = Profile(policy, sys.executable)
    words = [word for path, name in profile.names.items() for word in (name, path)]
    parameters = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)
    call = ctypes.CDLL(SYSTEM).sandbox_init_with_parameters
    call.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p]
    wrong = ctypes.c_char_p()
    if call(profile.text.encode(), 0, parameters, ctypes.byref(wrong)):
        why = (wrong.value or b"").decode(errors="replace")
        raise SandboxUnavailable(f"macOS refused a sandbox: {why}", hint=SPAWN_HINT)


class Profile:
    """A policy as Seatbelt takes it: a text, and the paths behind its parameters."""

    def __init__(self, policy: SandboxPolicy, program: str) -> None:
        """Write it for a process that is to run `program`.

        Raises:
            SandboxUnavailable: see `wrapped`.
        """
        self.text = HEAD + (NOTICES if policy.notices else "")
        self.names: dict[str, str] = {}  # by path, the parameter's
        shut = (*policy.closed, *policy.protected)
        for path in (program, *policy.read, *policy.write, *policy.run, *shut):
            _check(path)
        closed = set(map(os.path.realpath, policy.closed))
        protected = set(map(os.path.realpath, shut))
        run = [path for listed in (program, *policy.run) for path in _started(listed)]

        def inside(path: str) -> bool:
            real = Path(os.path.realpath(path))
            return any(real.is_relative_to(place) for place in protected)

        for within in (False, True):  # what is listed at or below a closed place has the last word
            read, write = (
                [path for path in map(os.path.realpath, paths) if inside(path) is within]
                for paths in (policy.read, policy.write)
            )
            self._rules(f"allow {READING}", SUBPATH, read)
            self._rules(f"allow {WRITING}", SUBPATH, write)
            self._rules("allow file-read-data", LISTING, write)
            # A tool opens the folder of a listed file first; so the names in there are told.
            files = (path for path in (*read, *write) if Path(path).is_file())
            self._rules("allow file-read-data", LITERAL, map(os.path.dirname, files))
            if policy.sockets == "unix":
                self._rules("allow network-outbound", SUBPATH, (*read, *write))
                self._rules("allow network-bind network-inbound", SUBPATH, write)
            if not within:
                self._rules("deny file-read* file-write* process-exec* network*", SUBPATH, closed)
                self._rules("deny file-write*", SUBPATH, protected)
                # Moved, with a folder above it, such a place would be open where it came to.
                self._rules("deny file-write-unlink", LITERAL, _above(protected))
        self._rules(f"allow process-exec* {READING}", LITERAL, run)
        way = on_the_way((*policy.read, *policy.write, *run))
        self._rules("allow file-read-metadata", LITERAL, way)
        if policy.sockets == "any":
            self.text += NETWORK
        if policy.sockets == "serve":
            self.text += SERVING
        for port in policy.ports[:1] if policy.sockets == "tcp" else ():
            # 127.0.0.1 and ::1, but not the first as ::ffff:127.0.0.1.
            self.text += f'(allow network-outbound (remote ip "localhost:{port}"))\n'

        self.text += "".join(APPLE_EVENTS.format(*APPS[app]) for app in policy.apps if app in APPS)
        self.text += RUN_SHORTCUTS if set(policy.apps) - APPS.keys() else ""

    def _rules(self, rule: str, form: str, paths: Iterable[str]) -> None:
        """Add a rule for each path. Without any there is none: it would hold for all."""
        for path in dict.fromkeys(paths):
            self.text += f"({rule} {form.format(self._parameter(path))})\n"

    def _parameter(self, path: str) -> str:
        _check(path)  # once more: a link may lead anywhere
        return self.names.setdefault(path, f"P{len(self.names)}")


def _check(path: str) -> None:
    if UNFIT & set(path) or not path.startswith("/"):
        raise SandboxUnavailable(
            "this path cannot be told to the sandbox of macOS",
            where=path,
            hint="rename it: without quotes, brackets, backslashes and line breaks",
        )


def _started(program: str) -> Iterator[str]:
    """Yield what is executed with a program: it, without links, and what a framework relaunches."""
    real = os.path.realpath(program)
    yield program
    yield real
    if (app := Path(real).parents[1] / RELAUNCHED).exists():
        yield str(app)


def _above(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield from map(str, Path(path).parents)
