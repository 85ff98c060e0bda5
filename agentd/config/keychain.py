"""Passwords of the macOS Keychain, by the system's own `security` command.

    security add-generic-password -s agentd -a NAME -w

asks for one and keeps it. Only the name is in a command line; see security(1).
"""

import sys

SECURITY = "/usr/bin/security"
SERVICE = "agentd"
FIND_S = 20.0  # it may ask a person to unlock the Keychain
NOT_FOUND = 44  # errSecItemNotFound, as an exit code


def password(name: str) -> tuple[str | None, str]:
    """Return agentd's password of this name; or None, with why it cannot be had.

    "" for why: there is none, as on all other systems.
    """
    if sys.platform != "darwin":
        return None, ""
    import subprocess  # no worker needs it

    command = [SECURITY, "find-generic-password", "-s", SERVICE, "-a", name, "-w"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=FIND_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, type(error).__name__
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace").removesuffix("\n"), ""
    if done.returncode == NOT_FOUND:
        return None, ""
    return None, f"`security` ended with {done.returncode}"  # locked, or a person said no
