"""What a process must not have done before it forks children that go on without a new program.

A fork copies one thread. Whatever another one held or was about to do stays so for ever in the
child: a lock, a half-made object, a connection. So nothing may have had a thread before.

On macOS Apple's libraries have threads and connections of their own as soon as they are used. The
rules are those of the Objective-C runtime, which ends a child of a process that ever had a second
thread where it first meets a class with an `+initialize` of its own
(`objc_initializeAfterForkError`, since 10.13; a variable of a person's shell that allows it is not
passed on); of libdispatch and Core Foundation, which end a child that uses them after its parent
did; and of CPython, whose `multiprocessing` forks no more there for these reasons (bpo-33725).
"""

import ctypes
import sys
import threading
from pathlib import Path

# They start threads, keep connections or call Apple's libraries, as soon as they are imported or at
# their first call. `_scproxy` asks macOS for proxies; `grpc` and `mlx` have threads of their own.
NEVER = (
    *("baml_py", "baml_client", "mlx", "mlx_lm", "numpy", "torch", "tokenizers", "transformers"),
    *("_scproxy", "objc", "AppKit", "Foundation", "CoreFoundation", "Security"),
    *("grpc", "llguidance", "uvloop"),
)


def why_not() -> str:
    """Return why this process must not fork children, "" where it may."""
    loaded = sorted(name for name in NEVER if name in sys.modules)
    if loaded:
        return f"{', '.join(loaded)} must not be loaded before a fork"
    if threading.active_count() > 1 or _had_threads():
        return "a process that has threads must not fork"
    return ""


def _had_threads() -> bool:
    """Whether there are threads that Python knows nothing of; on macOS: or ever were."""
    if sys.platform == "darwin":
        return bool(ctypes.CDLL(None).pthread_is_threaded_np())
    tasks = Path("/proc/self/task")
    return tasks.exists() and len(list(tasks.iterdir())) > 1
