"""What the fetcher's process may touch: certificates and what names are looked up with."""

import os
import ssl
from pathlib import Path

from agentd.sandbox.policy import SandboxPolicy, base_read

RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/networks")
# Where what writes resolv.conf keeps its own; a file's rule ends with the file that is replaced.
RESOLVER_FOLDERS = ("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf")


def fetcher_policy() -> SandboxPolicy:
    """Return the policy: nothing to write, nothing to run, no other file of the user's."""
    found = ssl.get_default_verify_paths()
    own = (found.cafile, found.capath)  # also those that SSL_CERT_FILE and SSL_CERT_DIR name
    read = (*base_read(), *RESOLVER, *RESOLVER_FOLDERS, *filter(None, own))
    return SandboxPolicy(read=tuple(filter(os.path.exists, read)), sockets="any")


def resolver_state() -> tuple[tuple[int, int] | None, ...]:
    """Return what changes when a resolver's file is replaced: then it cannot be read any more."""
    return tuple(_inode(path) for path in RESOLVER)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
