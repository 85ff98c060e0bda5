"""What our own processes see of the environment: an allow-list, so that no secret comes along.

A person's shell may hold keys of clouds and programs. The supervisor has them all; a worker runs
agents, which read what strangers wrote, and needs none of them. Which child gets what:

* workers, their hands, checks of agents and the compiler of prompts: `for_child`;
* the model server: that, and what tunes its libraries: `for_model_server`;
* programs of `RunCommand` and MCP servers: `for_program`; git and the guardian's shell: nothing of
  ours at all, either, but fixed values (tools/git_command.py, guardian.py);
* what a person's own command starts (`agentd demo`'s daemon, the package client of `model pull`,
  launchctl): all of it, as if that person had called it.
"""

import os
from collections.abc import Mapping

# Who and where we are, in which language and time, and where temporary files lie.
NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR"),
        *("TERM", "NO_COLOR", "SSL_CERT_FILE", "SSL_CERT_DIR", "__CF_USER_TEXT_ENCODING"),
        *(
            "LC_ALL",
            "LC_CTYPE",
            "LC_COLLATE",
            "LC_MESSAGES",
            "LC_MONETARY",
            "LC_NUMERIC",
            "LC_TIME",
        ),
        *("LC_ADDRESS", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_NAME", "LC_PAPER"),
        *("LC_TELEPHONE", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"),
        *("XDG_RUNTIME_DIR", "XDG_CONFIG_DIRS", "XDG_DATA_DIRS", "XDG_BIN_HOME"),
        *("AGENTD_HOME", "AGENTD_LAUNCHD", "AGENTD_BLAS"),
        # Python's own settings, and where an unusual one finds its parts.
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONWARNINGS"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE", "PYTHONUSERBASE"),
        *("PYTHONMALLOC", "PYTHONDEVMODE", "PYTHONHASHSEED", "PYTHONSAFEPATH"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
    }
)
# What the model's libraries read. Nothing is fetched there, so no token of a hub is among them.
MODEL_PREFIXES = ("MLX_", "OPENBLAS_", "OMP_", "KMP_", "MKL_", "GOTO_", "VECLIB_", "BLIS_", "MTL_")
MODEL_NAMES = frozenset(
    {
        *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "RAYON_NUM_THREADS"),
        *("TOKENIZERS_PARALLELISM", "METAL_DEVICE_WRAPPER_TYPE", "METAL_DEBUG_ERROR_MODE"),
    }
)
# Where programs of tools are found. Fixed, and not the daemon's own: what a name in [permissions]
# means must not depend on a login.
PROGRAM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/opt/homebrew/bin"
ALWAYS = {
    "PYTHONUNBUFFERED": "1",  # what a child printed before it died is worth most
    "PYTHONFAULTHANDLER": "1",  # a segmentation fault in a library says where
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # nobody's plugins, and 1.4 MB less in each worker
}


def for_child(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that runs agents' code, or compiles for it."""
    return {k: v for k, v in environ.items() if k in NAMES} | ALWAYS


def for_program(home: str) -> dict[str, str]:
    """Return all that a program of a tool or an MCP server sees: nothing of the daemon's own."""
    return {"PATH": PROGRAM_PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "TERM": "dumb"}


def for_model_server(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the model server."""
    from agentd.secret_rules import telling  # 14 ms, which small processes do without

    tuned = {
        key: value
        for key, value in environ.items()
        if key in MODEL_NAMES or (key.startswith(MODEL_PREFIXES) and not telling(key))
    }
    return for_child(environ) | tuned
