"""What a process in a sandbox may touch. Nothing else is: a sandbox only narrows."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentd.paths import Paths

Sockets = Literal["none", "unix", "serve", "tcp", "any"]

PACKAGES = ("site-packages", "dist-packages")  # in Python's path; `sysconfig` would take 1 MB
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where they are, if not where the system has them
SHEBANG_BYTES = 256  # BINPRM_BUF_SIZE: as far as the kernel reads
HOPS_MAX = 64  # of one path: folders, and links on the way
SHEBANG_DEPTH = 4  # interpreters of interpreters; the kernel follows as many
# What programs and Python need of a system: libraries, data, names, times, certificates. No folder
# of programs is among them: the loader would run whatever may be read.
LINUX_READ = """
/lib /lib32 /lib64 /usr/lib /usr/lib32 /usr/lib64 /usr/libexec /usr/share /usr/include
/usr/local/lib /usr/local/share /usr/local/include
/etc/ld.so.cache /etc/localtime /etc/timezone /etc/locale.alias /etc/mime.types /etc/perl
/etc/passwd /etc/group /etc/nsswitch.conf /etc/protocols /etc/services
/etc/gitconfig /etc/gitattributes
/etc/ssl/certs /etc/ssl/openssl.cnf /etc/pki/tls/certs /etc/pki/tls/openssl.cnf
/etc/pki/ca-trust/extracted /etc/ca-certificates
/dev/null /dev/zero /dev/full /dev/random /dev/urandom
/proc/cpuinfo /proc/meminfo /proc/stat /sys/devices/system/cpu
"""
MACOS_READ = """
/System/Library /System/Cryptexes /System/Volumes/Preboot/Cryptexes /usr/lib /usr/share
/private/var/db/timezone /private/var/db/dyld /private/etc/ssl /private/etc/localtime
/private/etc/passwd /private/etc/group /private/etc/services
/Library/Apple /Library/Developer/CommandLineTools/usr/lib /opt/homebrew/lib
/dev/null /dev/zero /dev/random /dev/urandom /dev/fd
"""


@dataclass(frozen=True)
class SandboxPolicy:
    """What a process may touch, by absolute paths; a folder stands for all that lies in it.

    `read`: what may be read and listed. `write`: what may be made, changed, removed and listed;
    only what is in `read`, too, may be read there. `run`: what may be executed, and read.
    `closed`: what stays shut inside of these, `protected`: what is not written. A path that is
    listed itself, at or below one of those, is open all the same: who lists for others minds that.
    On Linux the names in there are told, and nothing can be made in the folders that lead there.

    `sockets`: "none"; "unix": of this machine alone, which reach every socket that has a path, so
    also programs that run what they are told to; "serve": none but what it was handed, which may
    accept connections, and asks for none; "tcp": connections, all of which lead to the first
    of `ports` on 127.0.0.1; "any": of the network, to everywhere.

    `settled`: those of its paths that lead through no link. What became one since opens nothing.
    `apps`: of a Mac, as [permissions] list them; they may be told what to do.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    sockets: Sockets = "none"
    settled: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()

    def real(self, path: str) -> str:
        """Return one of its paths as it is entered with: without links."""
        return path if path in self.settled else os.path.realpath(path)

    def reaching(self, port: int) -> "SandboxPolicy":
        """Return it with a way to the network: a proxy at this port, and nothing else."""
        return replace(self, ports=(port,), sockets="tcp")

    # It may be told of changes: on Linux in any folder, as Landlock does not look at that. Of what
    # changed it is told the name.
    notices: bool = False

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "SandboxPolicy":
        """Return the policy of a document that `document` gave, also once it was JSON."""
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)


def base_read() -> tuple[str, ...]:
    """Return what Python, agentd and most programs read of the system, for `read`.

    The user's own files are not among it, but for Python's.
    """
    system = MACOS_READ if sys.platform == "darwin" else LINUX_READ
    own = {str(Path(os.__file__).parent), *(path for path in sys.path if path.endswith(PACKAGES))}
    # A Python of the system lies beside all programs: of that only its libraries.
    own |= {sys.prefix, sys.base_prefix} - {"/", "/usr", "/usr/local"}
    paths = dict.fromkeys((*system.split(), *sorted(own), str(Path(__file__).parents[1])))
    return tuple(filter(os.path.exists, paths))


def libraries(paths: Paths) -> Iterator[str]:
    """Give where else Python finds modules, and the certificates for TLS, for `read`.

    Nothing that holds our folders: a rule holds for all that lies below.
    """
    if sys.platform == "linux":
        yield "/proc/self"
    ours = (paths.user, paths.data, paths.logs, paths.run)
    for path in (*sys.path, *(os.environ.get(name, "") for name in CERTIFICATES)):
        real = Path(os.path.realpath(path))
        if Path(path).is_absolute() and not any(top.is_relative_to(real) for top in ours):
            yield path


def executables(program: str, path: str) -> tuple[str, ...]:
    """Return all that must be executable for `program` to start: it, and what its `#!` names.

    `path`: where `/usr/bin/env` looks for an interpreter, as in PATH.
    """
    found: list[str] = []
    while program and program not in found and len(found) <= SHEBANG_DEPTH:
        found.append(program)
        words = _shebang(program)
        if len(words) > 1 and Path(words[0]).name == "env":
            import shutil

            found.append(words[0])
            name = next((word for word in words[1:] if not word.startswith("-")), "")
            program = shutil.which(name, path=path) or ""
        else:
            program = words[0] if words else ""
    return tuple(found)


def on_the_way(paths: Iterable[str]) -> Iterator[str]:
    """Yield each folder and each link that leads to these paths: resolving one looks at all.

    Also what links lead to on the way, such as uv's folder of a Python without its last number.
    """
    for path in paths:
        here, parts = Path("/"), list(Path(path).parts[1:])
        for _ in range(HOPS_MAX):
            if not parts:
                break
            here /= parts.pop(0)
            yield str(here)
            if here.is_symlink():
                target = os.path.normpath(here.parent / here.readlink())
                here, parts = Path("/"), [*Path(target).parts[1:], *parts]


def _shebang(program: str) -> list[str]:
    try:
        with Path(program).open("rb") as file:
            line = file.read(SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return []
    return os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
