"""The memory footprint of a process on macOS: what Activity Monitor shows as its memory.

Pages of files and libraries, which all processes share, are not in it; what was compressed is.
From `proc_pid_rusage` of <libproc.h>, which libSystem has; its record is `rusage_info_v4` of
<sys/resource.h>: 16 bytes of UUID, then numbers of 64 bits.
"""

import struct
import sys

LIBRARY = "/usr/lib/libSystem.B.dylib"
RUSAGE_INFO_V4 = 4
RECORD_BYTES = 296  # 16, and 35 numbers
# Behind the UUID: user and system time, two kinds of wake-ups, page-ins, wired and resident bytes.
FOOTPRINT = struct.Struct("=16x7Q Q")


def footprint(pid: int) -> int | None:
    """Return a process's footprint in bytes; None where it cannot be told, as on other systems."""
    if sys.platform != "darwin":
        return None
    import ctypes  # `agentd status` imports this module as well

    record = ctypes.create_string_buffer(RECORD_BYTES)
    try:
        asked = ctypes.CDLL(LIBRARY).proc_pid_rusage
    except (OSError, AttributeError):
        return None
    asked.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return read_record(record.raw) if asked(pid, RUSAGE_INFO_V4, record) == 0 else None


def read_record(record: bytes) -> int:
    """Return `ri_phys_footprint` of a `rusage_info_v4`."""
    return int(FOOTPRINT.unpack_from(record)[-1])
