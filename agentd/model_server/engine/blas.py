"""A fast matrix product for MLX on Linux.

The Linux wheel of MLX links a reference BLAS: 3 GFLOP/s on 2 cores, 7 tokens/s of prefill for a
135M model. OpenBLAS gives 80 to 160 GFLOP/s there, and 190 tokens/s on one of the cores. `speed_up`
finds one by itself, in this order:

* an OpenBLAS of the system, loaded with global symbols before MLX, so that MLX binds to it;
* the one inside numpy's wheel, which mlx_lm needs anyway. Its functions carry other names and
  64-bit integers, so the reference `cblas_sgemm` is replaced in memory by a small piece of
  machine code that widens the integers and jumps there (x86-64 only). The result is checked with
  a known product, and undone if it is wrong.

macOS needs none of it: there MLX has Metal and Accelerate.
"""

import ctypes
import importlib.util
import mmap
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

VARIABLE = "AGENTD_BLAS"  # "off" leaves MLX as it is; "system" or "numpy" allows only that one
Found = Literal["system", "numpy", "none", "not needed"]

SYSTEM_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblaso.so.0", "libopenblas.so")
SYSTEM_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/OpenBLAS/lib")

# cblas_sgemm(order, transA, transB, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc), System V ABI:
# M, N and K come in ecx, r8d and r9d; lda, ldb and ldc on the stack, in slots of the callee.
WIDEN_AND_JUMP = bytes.fromhex(
    "4863c9"  # movsxd rcx, ecx
    "4d63c0"  # movsxd r8, r8d
    "4d63c9"  # movsxd r9, r9d
    "4863442410 4889442410"  # movsxd rax, [rsp+16]; mov [rsp+16], rax
    "4863442420 4889442420"  # the same at rsp+32
    "4863442430 4889442430"  # the same at rsp+48
    "48b8 %s ffe0".replace("%s", "0000000000000000")  # mov rax, target; jmp rax
)
TARGET_AT = len(WIDEN_AND_JUMP) - 10
TRIAL_S = 10
ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112


def speed_up(allowed: str | None = None) -> Found:
    """Make MLX in this process use a fast BLAS, and say which one it is.

    Call it before `mlx` is imported. Never raises: without a fast BLAS all works, slowly.
    `allowed` defaults to the variable AGENTD_BLAS.
    """
    allowed = allowed or os.environ.get(VARIABLE, "auto")
    if sys.platform != "linux":
        return "not needed"
    # OpenBLAS's threads wait for each other by spinning. With one per core, its default, a single
    # other busy process makes all of them wait: 0.7 tokens/s instead of 3.3 (and 11 instead of 9
    # on an idle machine). So half the cores; above 8 a small model only gets slower.
    threads = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(threads))
    if allowed in ("auto", "system") and _load_system():
        return "system"
    if allowed in ("auto", "numpy") and _survives(_redirect_to_numpy) and _redirect_to_numpy():
        return "numpy"
    return "none"


def _survives(attempt: Callable[[], bool]) -> bool:
    """Try it in a forked copy of this process first: there, a crash costs nothing."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(TRIAL_S)  # its default action ends a copy that hangs
        os._exit(0 if attempt() else 1)
    return os.waitpid(pid, 0)[1] == 0


def _load_system() -> bool:
    folders = [
        folder for root in SYSTEM_FOLDERS for folder in sorted(Path(root).glob("*openblas*"))
    ]
    folders += sorted(Path("/usr/lib").glob("*-linux-gnu/openblas*"))
    paths = [str(folder / name) for folder in folders for name in SYSTEM_NAMES]
    for name in (*SYSTEM_NAMES, *(path for path in paths if Path(path).exists())):
        try:
            library = ctypes.CDLL(name)
            if not _multiplies(library.cblas_sgemm):
                continue
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)  # the same library, now seen by MLX
        except (OSError, AttributeError):  # not there, needs a library that is not, or has no CBLAS
            continue
        return True
    return False


def _redirect_to_numpy() -> bool:
    fast_path = _inside("numpy", "numpy.libs", "libscipy_openblas64_*.so*")
    slow_path = _inside("mlx", "mlx_cpu.libs", "libblas-*.so*")
    if platform.machine() != "x86_64" or fast_path is None or slow_path is None:
        return False
    try:
        fast = ctypes.CDLL(str(fast_path)).scipy_cblas_sgemm64_
        slow = ctypes.CDLL(str(slow_path)).cblas_sgemm
    except (OSError, AttributeError):
        return False
    code, address = bytearray(WIDEN_AND_JUMP), _address(slow)
    struct.pack_into("<Q", code, TARGET_AT, _address(fast))
    before = ctypes.string_at(address, len(code))
    if not _overwrite(address, bytes(code)):
        return False
    if _multiplies(slow):
        return True
    _overwrite(address, before)
    return False


def _inside(package: str, folder: str, pattern: str) -> Path | None:
    """Find a library that a wheel carries beside its package, without importing the package."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted((Path(place).parent / folder).glob(pattern)):
            return path
    return None


def _address(function: Callable[..., object]) -> int:
    value = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    return value or 0


def _overwrite(address: int, code: bytes) -> bool:
    """Replace machine code. False where the system forbids it (SELinux's execmod, for one)."""
    start = address - address % mmap.PAGESIZE
    length = address + len(code) - start
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(start, length, mmap.PROT_READ | mmap.PROT_WRITE) != 0:
        return False
    ctypes.memmove(address, code, len(code))
    return bool(protect(start, length, mmap.PROT_READ | mmap.PROT_EXEC) == 0)


def _multiplies(sgemm: Callable[..., object]) -> bool:
    """Try a 2x3 by 3x2 product inside wider rows, with one side transposed."""
    sgemm.argtypes = (  # type: ignore[attr-defined]
        *(ctypes.c_int,) * 6,
        *(ctypes.c_float, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int),
        *(ctypes.c_float, ctypes.c_void_p, ctypes.c_int),
    )
    sgemm.restype = None  # type: ignore[attr-defined]
    left = (ctypes.c_float * 8)(1, 2, 3, 99, 4, 5, 6, 99)  # rows of 4, of which 3 count
    right = (ctypes.c_float * 10)(1, 0, 2, 99, 99, 0, 1, 3, 99, 99)  # two rows of 5, transposed
    out = (ctypes.c_float * 6)(*[1.0] * 6)
    sgemm(ROW_MAJOR, NO_TRANS, TRANS, 2, 2, 3, 2.0, left, 4, right, 5, 1.0, out, 3)
    return list(out) == [15, 23, 1, 33, 47, 1]
