"""Compiles one agent's .baml files into its Python client, by BAML's own command."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from agentd.errors import ConfigError
from agentd.process import environment

BAML_VERSION = "0.226.3"  # as pinned in pyproject.toml and written in clients.baml
# It takes 0.1 s; more than this is a hang. Under the daemon and `agentd check` the 30 s for the
# whole check are over first (supervisor/checks.py).
COMPILE_S = 60.0
MESSAGE_MAX = 400  # characters of BAML's message in ours
COMMAND = "import sys, baml_py; sys.argv[0] = 'baml-cli'; sys.exit(baml_py.invoke_runtime_cli())"

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ERROR = re.compile(r"^\s*error: (.*(?:\n(?!\s*-->).*)*)", re.MULTILINE)
PLACE = re.compile(r"^\s*-->\s+(\S.*):(\d+)\s*$", re.MULTILINE)


def compile_client(folder: Path, origins: Mapping[str, Path]) -> None:
    """Generate folder/baml_client from folder/baml_src. `origins`: where each file came from.

    Raises:
        ConfigError: BAML's first error, with the file that a person wrote, its line and a hint.
    """
    command = [sys.executable, "-c", COMMAND, "generate", "--from", "baml_src"]
    quiet = {"BAML_LOG": "error", "RUST_BACKTRACE": "0", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment.for_child() | quiet,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_S,
            stdin=subprocess.DEVNULL,
            umask=0o077,  # it may be ended in the middle, and what lies there then
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"BAML did not compile it within {COMPILE_S:.0f} s",
            where=", ".join(str(path) for path in origins.values()),
            hint="simplify the prompt",
        ) from error
    if done.returncode != 0 or not (folder / "baml_client" / "__init__.py").is_file():
        raise baml_error(done.stderr + done.stdout, origins)


def baml_error(output: str, origins: Mapping[str, Path]) -> ConfigError:
    """Return the first error in BAML's output."""
    text = ANSI.sub("", output)
    error = ERROR.search(text)
    if error is None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        what = lines[-1] if lines else "BAML said nothing"
        return ConfigError(
            f"does not compile: {what[:MESSAGE_MAX]}", where=_names(origins), hint="correct it"
        )
    end = text.find("\n    error:", error.end())
    places = PLACE.findall(text[error.end() : end if end > 0 else len(text)])
    where = [f"{origins.get(Path(file).name, file)}:{line}" for file, line in places]
    message = " ".join(error[1].split())[:MESSAGE_MAX].removeprefix("Error validating: ")
    hint = "correct that line"
    if "cannot be re-defined" in message or "already exists" in message:
        also = f"; it is also in {where[1]}" if len(where) > 1 else ""
        hint = f"{', '.join(sorted(origins))} are compiled together: rename one{also}"
    return ConfigError(
        f"does not compile: {message}", where=where[0] if where else _names(origins), hint=hint
    )


def _names(origins: Mapping[str, Path]) -> str:
    return ", ".join(str(path) for path in origins.values())
