"""The values of secrets: in the macOS Keychain, else a private file, else the environment.

Only processes that are in no sandbox get at them: the supervisor, and a person's commands.
"""

import os
import stat
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from agentd import secret_rules
from agentd.config import keychain
from agentd.config.secret_names import secret_name
from agentd.config.toml import as_text
from agentd.errors import ConfigError
from agentd.paths import Paths
from agentd.whole import read_start

VARIABLE = "AGENTD_SECRET_"  # begins the name of an environment variable
BYTES_MAX = 16_384
OTHERS = 0o077  # mode bits of everybody else


def secret_value(name: str, paths: Paths, environ: Mapping[str, str] = os.environ) -> str:
    """Return a secret; from now on it is hidden in what this process logs and tells.

    Raises:
        ConfigError: it is nowhere, or in a file that others can read.
    """
    file, variable = paths.secrets / name, f"{VARIABLE}{name}"
    found, why = keychain.password(name)
    found = found or _in_file(file) or environ.get(variable)
    if found:
        secret_rules.remember(found)
        return found
    item = f"the Keychain (service {keychain.SERVICE}, account {name}){f': {why}' if why else ''}"
    on_a_mac = sys.platform == "darwin"
    places = [*([item] if on_a_mac else []), str(file), f"the daemon's environment ({variable})"]
    add = f"`security add-generic-password -s {keychain.SERVICE} -a {name} -w`, or "
    raise ConfigError(
        f"there is no secret {name}; looked for in {', '.join(places)}",
        where=f"secret:{name}",
        hint=f"{add if on_a_mac else ''}write it into {file}, with mode 0600",
    )


def secret_of(named: Collection[str], name: str, paths: Paths) -> str:
    """Return a secret that an agent's file names.

    Raises:
        ConfigError: it does not; or as `secret_value`.
    """
    if name not in named:
        shown = name[:80]
        raise ConfigError(
            f"no parameter names the secret {shown!r}",
            where="[params]",
            hint=f'write it there, as in: token = "secret:{shown}"',
        )
    return secret_value(name, paths)


def with_secrets(texts: Mapping[str, str], paths: Paths) -> dict[str, str]:
    """Return texts, such as a program's environment, with values in the places of `secret:NAME`.

    Raises:
        ConfigError: as `secret_value`.
    """
    names = {key: secret_name(text) for key, text in texts.items()}
    return {k: secret_value(name, paths) if (name := names[k]) else texts[k] for k in texts}


def _in_file(path: Path) -> str | None:
    """Return what a file holds, without the line's end; None where there is none."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & OTHERS:
            raise ConfigError(
                f"others may read this secret (mode {mode:04o})",
                where=str(path),
                hint=f"`chmod 600 {path}`",
            )
        return as_text(read_start(path, BYTES_MAX), path).strip("\r\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        hint = "make it a file of yours with mode 0600"
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=str(path), hint=hint
        ) from error
