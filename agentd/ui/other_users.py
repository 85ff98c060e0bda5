"""Whether another user of this machine is at the other end of a connection, where that can be told.

The port is everybody's: each user of this machine can connect to it. On Linux a table of the kernel
says whose each socket is. On macOS nothing does without privileges, and the cookie alone keeps them
out.
"""

import os
import socket
import struct
from pathlib import Path

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
MAPPED = "0000000000000000FFFF0000"  # before an IPv4 address in the second one
LOCAL, REMOTE, OWNER = 1, 2, 7  # columns: proc(5)

Place = tuple[str, int] | None


def foreign(client: Place, server: Place) -> bool:
    """Whether the socket of this client, connected to our `server`, is neither ours nor root's."""
    if client is None or server is None:
        return False
    ends = _written(client), _written(server)
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # not on Linux
            return False
        for words in map(str.split, lines):
            if (words[LOCAL].removeprefix(MAPPED), words[REMOTE].removeprefix(MAPPED)) == ends:
                return int(words[OWNER]) not in (0, os.getuid())
    return False


def _written(place: tuple[str, int]) -> str:
    """Return a place as the kernel writes it: the address as a number in its own order of bytes."""
    (number,) = struct.unpack("=I", socket.inet_aton(place[0]))
    return f"{number:08X}:{place[1]:04X}"
