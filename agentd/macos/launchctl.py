"""Drives launchd by `launchctl`: install, start, stop, restart and uninstall the LaunchAgent.

What the manual does not say, as others met it: `bootout` returns before the service is gone, and
for some 5 s after it `bootstrap` fails with error 5; so wait until `print` does not find it, and
try again. `kickstart` does not know a service that is not bootstrapped (113).
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from agentd.errors import AgentdError, UsageError, storage_errors
from agentd.process.until import until
from agentd.whole import write_whole

LABEL = "local.agentd"
CALL_S = 30.0  # for one call of launchctl
GONE_S = 30.0  # after a bootout: launchd kills after its ExitTimeOut of 20 s
BOOTSTRAP_S = 20.0  # of tries, while launchd lets go of the one before
STEP_S = 0.25
RETRIED = {5, 37}  # input/output error: still letting go; operation in progress
NOT_THERE = {3, 113}  # no such process, could not find service
NO_DOMAIN = {112, 125}  # there is no such login session


def available() -> bool:
    """Whether this machine has launchd."""
    return shutil.which("launchctl") is not None


class Service:
    """The LaunchAgent of this user. `text`: its plist as it should be."""

    def __init__(self, user_home: Path, text: str, *, foreground: str) -> None:
        self.plist = user_home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self._text = text
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{LABEL}"
        self._program = shutil.which("launchctl")
        if self._program is None:
            raise AgentdError(
                "there is no launchd here: this command is for macOS",
                hint=f"run it in the foreground: `agentd run`; or with systemd: `{foreground}`",
            )

    @property
    def installed(self) -> bool:
        """Whether the plist is in its place."""
        return self.plist.is_file()

    @property
    def current(self) -> bool:
        """Whether it says what it should."""
        try:
            return self.plist.read_text() == self._text
        except OSError:
            return False

    def loaded(self) -> bool:
        """Whether launchd knows the service; it need not run."""
        return self._call("print", self._target).returncode == 0

    def install(self) -> None:
        """Write the plist and load it, which starts it; one that is loaded already is replaced.

        Raises:
            StorageError: the plist cannot be written.
            AgentdError: launchd refuses.
        """
        with storage_errors(self.plist, "make room"):
            self.plist.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.plist, self._text, mode=None)
        self._bootout()
        self._bootstrap()

    def start(self) -> None:
        """Start the service; one that runs is left alone.

        Raises:
            UsageError: it is not installed.
            AgentdError: launchd refuses.
        """
        self._check_installed()
        if self.loaded():
            self._must("kickstart", self._target)
        else:
            self._bootstrap()

    def stop(self) -> None:
        """Ask the service to stop in order. It stays loaded, and stopped until the next login.

        Raises:
            UsageError: it is not installed.
            AgentdError: launchd refuses.
        """
        self._check_installed()
        done = self._call("kill", "SIGTERM", self._target)
        if done.returncode not in NOT_THERE:
            self._check(done, "kill")

    def restart(self) -> None:
        """Stop the service and start it again, with its plist as it is now.

        Raises:
            UsageError: it is not installed.
            AgentdError: launchd refuses.
        """
        self._check_installed()
        if self.loaded():
            self._must("kickstart", "-k", self._target)
        else:
            self._bootstrap()

    def uninstall(self) -> bool:
        """Unload the service, which stops it, and remove its plist. False: there was nothing.

        Raises:
            StorageError: the plist cannot be removed.
            AgentdError: launchd refuses.
        """
        there = self._bootout() or self.installed
        with storage_errors(self.plist, what="cannot be removed"):
            self.plist.unlink(missing_ok=True)
        return there

    # --- launchctl

    def _check_installed(self) -> None:
        if not self.installed:
            raise UsageError(
                "the LaunchAgent is not installed",
                where=str(self.plist),
                hint="`agentd install` writes and starts it",
            )

    def _bootout(self) -> bool:
        """Unload it and wait until it is gone. False: it was not loaded."""
        if not self.loaded():
            return False
        done = self._call("bootout", self._target)
        if done.returncode not in NOT_THERE | RETRIED:
            self._check(done, "bootout")
        if not self._within(GONE_S, lambda: not self.loaded()):
            raise AgentdError(
                f"launchd has not let go of {LABEL} within {GONE_S:g} s",
                hint=f"`launchctl print {self._target}` says what it waits for",
            )
        return True

    def _bootstrap(self) -> None:
        # A service that was disabled once cannot be loaded, over restarts too: launchctl(1).
        self._call("enable", self._target)
        done: list[subprocess.CompletedProcess[str]] = []

        def tried() -> bool:
            done[:] = [self._call("bootstrap", self._domain, str(self.plist))]
            if done[0].returncode in RETRIED and self.loaded():
                return True  # somebody else was faster; or it was loaded all the time
            return done[0].returncode not in RETRIED

        if not self._within(BOOTSTRAP_S, tried) or not self.loaded():
            self._check(done[0], "bootstrap")

    def _within(self, seconds: float, condition: Callable[[], bool]) -> bool:
        return any(condition() for _ in until(seconds, STEP_S))

    def _must(self, *words: str) -> None:
        self._check(self._call(*words), words[0])

    def _check(self, done: "subprocess.CompletedProcess[str]", word: str) -> None:
        if done.returncode == 0:
            return
        said = " ".join((done.stderr or done.stdout).split())
        if done.returncode in NO_DOMAIN:
            hint = "launchd has no session of yours: log in at the Mac's own screen first"
        else:
            hint = (
                f"`launchctl print {self._target}` tells more; or is it switched off in "
                "System Settings, General, Login Items?"
            )
        raise AgentdError(
            f"launchctl {word} failed ({done.returncode}): {said or 'it said nothing'}",
            where=str(self.plist),
            hint=hint,
        )

    def _call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        assert self._program is not None
        try:
            return subprocess.run(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=CALL_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AgentdError(f"launchctl {words[0]} does not answer: {error}") from error
